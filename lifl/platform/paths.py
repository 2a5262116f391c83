"""Where the local platform keeps its files, sockets and logs.

Why: the supervisor, the controller and the CLI find each other by these paths
alone. It must not start or signal anything.

    LIFL_HOME/            /var/lib/lifl as root, ~/.lifl otherwise
      state/              database, checkpoints, the platform's secret (owner only)
      run/                platform.json, one directory of sockets per node
        aggregators/      one file per running aggregator
        logs/             one file per process (owner only)
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifl import naming
from lifl.errors import ConfigError
from lifl.settings import read

MAX_SOCKET_PATH = 107
"""Longest path of a UNIX socket, in bytes (``sun_path`` is 108 with its end)."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The layout below one LIFL_HOME."""

    home: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Paths:
        """Read LIFL_HOME, or take the default of this user."""
        default = Path("/var/lib/lifl") if os.geteuid() == 0 else Path.home() / ".lifl"
        return cls(read(env, "LIFL_HOME", lambda v: Path(v).expanduser().resolve(), default))

    @property
    def run(self) -> Path:
        """Sockets, process files and logs of the running platform."""
        return self.home / "run"

    @property
    def state(self) -> Path:
        """What outlives a restart."""
        return self.home / "state"

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.run / "logs"

    @property
    def aggregators(self) -> Path:
        """One JSON file per aggregator."""
        return self.run / "aggregators"

    @property
    def platform_file(self) -> Path:
        """What runs: processes, URLs, data plane."""
        return self.run / "platform.json"

    def log(self, name: str) -> Path:
        """Return the log of one process."""
        return self.logs / f"{name}.log"

    def create(self, nodes: list[str]) -> None:
        """Make the directories; sockets can be reached by other users, the rest cannot.

        Raises
        ------
        ConfigError
            if a socket's path would be longer than the kernel takes.
        """
        for node in nodes:
            path = naming.agent_socket(self.run, node)
            if len(os.fsencode(path)) > MAX_SOCKET_PATH:
                raise ConfigError(
                    f"{path} is too long for a UNIX socket ({MAX_SOCKET_PATH} bytes at most): "
                    "set LIFL_HOME to a shorter path"
                )
        open_to_all = [self.home, self.run, *(naming.node_dir(self.run, n) for n in nodes)]
        for path in open_to_all:
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o711)
        for path in (self.state, self.logs, self.aggregators):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)

    def secret(self) -> str:
        """Return the platform's secret (64 hex digits), made on first use."""
        path = self.state / "platform.secret"
        if not path.exists():
            write_text(path, secrets.token_hex(32))
        return path.read_text().strip()


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w") as f:
            f.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step, readable by its owner only."""
    write_text(path, json.dumps(value, indent=1))


def read_json(path: Path) -> Any:
    """Return a JSON file's content, None if there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
