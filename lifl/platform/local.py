"""Aggregators as processes of this machine.

Why: the embedded platform needs no cluster. Each instance leaves a file with
its pid and start time, so that a controller that was killed finds its
aggregators again. It must not decide how many there are.
"""

from __future__ import annotations

import json
import os
import select
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import lifl
from lifl import naming
from lifl.platform.api import Aggregator
from lifl.platform.paths import Paths, read_json, write_json
from lifl.platform.processes import ProcessId, stop

GRACE_SECONDS = 5.0
CHECKOUT = Path(lifl.__file__).resolve().parent.parent


def gunicorn(function: str) -> tuple[str, ...]:
    """Return the command that runs a function."""
    package = f"functions.{function}"
    command = (sys.executable, "-m", "gunicorn", "-c", f"python:{package}.gunicorn_conf")
    return (*command, f"{package}.app:app")


ARGV = gunicorn("aggregator")
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
_SETTINGS = ("LIFL_AGENT_PATIENCE", "LIFL_MAX_BODY_BYTES", "LIFL_MAX_PARTIALS", "LIFL_CRASH_DIR")


def closed_paths(paths: Iterable[Path]) -> list[Path]:
    """Return the files and directories that other users cannot read or pass through."""
    found: list[Path] = []
    for path in paths:
        real = path.resolve()
        for part in (real, *real.parents):
            mode = part.stat().st_mode
            needed = stat.S_IXOTH if part.is_dir() else stat.S_IROTH
            if not mode & needed and part not in found:
                found.append(part)
    return found


def program_paths() -> list[Path]:
    """Return what a function's process must be able to read: interpreter, libraries, this code."""
    return [Path(sys.executable), Path(sysconfig.get_path("purelib")), CHECKOUT / "functions"]


def base_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that every process of the platform starts from; no secrets."""
    kept = {name: env[name] for name in _PASSED_ON if name in env}
    return kept | {
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


class LocalPlatform:
    """Start, stop and list aggregators as gunicorn processes (see :class:`lifl.platform.api`)."""

    def __init__(self, paths: Paths, *, dataplane: str, coordinator_url: str) -> None:
        self._paths = paths
        self._dataplane = dataplane
        self._coordinator_url = coordinator_url
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self.shared_user = self._why_shared_user()

    def _why_shared_user(self) -> str:
        if os.geteuid() != 0:
            return "not started as root"
        closed = closed_paths([*program_paths(), self._paths.run])
        if closed:
            return f"{closed[0]} is closed to other users"
        return ""

    def user(self, job_uid: int | None) -> int:
        """Return the job's own user, or this one where jobs cannot have their own."""
        if job_uid is None or self.shared_user:
            return os.geteuid()
        return job_uid

    def start(self, aggregator: Aggregator, uid: int) -> None:
        """Start an aggregator; nothing happens if it runs already."""
        path = self._file(aggregator.name)
        if self._identity(path) is not None:
            return
        own = uid == os.geteuid()
        with self._paths.log(aggregator.name).open("ab") as log:
            child = subprocess.Popen(
                ARGV,
                env=self._environment(aggregator),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=None if own else uid,
                group=None if own else uid,
                extra_groups=None if own else [],
                umask=0o077,
            )
        self._children[child.pid] = child
        identity = ProcessId.of(child.pid)
        if identity is None:
            return
        write_json(
            path,
            {
                "name": aggregator.name,
                "job": aggregator.job,
                "node": aggregator.node,
                "uid": uid,
                "pid": identity.pid,
                "started": identity.started,
                "since": time.time(),
            },
        )

    def _environment(self, aggregator: Aggregator) -> dict[str, str]:
        settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
        return (
            base_environment(os.environ)
            | settings
            | {
                "LIFL_NODE": aggregator.node,
                "LIFL_NAME": aggregator.name,
                "LIFL_DOMAIN": aggregator.job,
                "LIFL_AGENT_SOCKET": str(naming.agent_socket(self._paths.run, aggregator.node)),
                "LIFL_COORDINATOR_URL": self._coordinator_url,
                "LIFL_DATAPLANE": self._dataplane,
                "LIFL_HOST": "127.0.0.1",
                "PORT": "0",
            }
        )

    def stop(self, names: Sequence[str]) -> None:
        """End aggregators and wait for them."""
        files = [self._file(name) for name in names]
        stop([p for f in files if (p := self._identity(f)) is not None], GRACE_SECONDS)
        for path in files:
            path.unlink(missing_ok=True)
        self._reap()

    def running(self) -> list[Aggregator]:
        """Return the aggregators that run; files of those that ended are removed."""
        self._reap()
        found = []
        for path in sorted(self._paths.aggregators.glob("*.json")):
            if self._identity(path) is None:
                path.unlink(missing_ok=True)
                continue
            raw = read_json(path)
            found.append(Aggregator(raw["name"], raw["job"], raw["node"]))
        return found

    def wait(self, wakeup: int, timeout: float) -> None:
        """Return when an aggregator has ended, ``wakeup`` is readable or ``timeout`` s are over."""
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        fds: list[int] = []
        try:
            for path in self._paths.aggregators.glob("*.json"):
                identity = self._identity(path)
                fd = identity.pidfd() if identity is not None else None
                if fd is None:
                    return
                fds.append(fd)
                poll.register(fd, select.POLLIN)
            poll.poll(timeout * 1000)
        finally:
            for fd in fds:
                os.close(fd)

    def _file(self, name: str) -> Path:
        return self._paths.aggregators / f"{naming.check_name(name, 'aggregator')}.json"

    @staticmethod
    def _identity(path: Path) -> ProcessId | None:
        try:
            raw = read_json(path)
        except json.JSONDecodeError:
            return None
        identity = None if raw is None else ProcessId.from_json(raw)
        return identity if identity is not None and identity.alive() else None

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]
