"""A real local platform for the figures, and models of a given size.

Why: the figures of a round are taken on the platform that users run: its
supervisor, agents, gateways, coordinator, controller and aggregators as
processes, authentication on. It must not know what is measured.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil

from bench.ports import closed_ports
from lifl import naming
from lifl.auth import mint_platform_token
from lifl.client.http import HttpClient
from lifl.dataplane.admin import AgentAdmin
from lifl.platform import doctor, running
from lifl.platform.paths import Paths
from lifl.update import Schema, TensorSpec, iter_document

T = TypeVar("T")

UP_SECONDS = 60.0
WAIT_SECONDS = 60.0
_STARTED = re.compile(r"^(\S+ \S+),(\d{3}) .*: started \S+ on \S+$", re.MULTILINE)


def model_document(nbytes: int, *, value: float = 0.0) -> bytes:
    """Return a safetensors document of one job's model: ``nbytes`` of float32 in 62 tensors."""
    elements = nbytes // 4
    part = elements // 62
    sizes = [part] * 61 + [elements - 61 * part]
    schema = Schema(TensorSpec(f"layer{i:02}.weight", "F32", (n,)) for i, n in enumerate(sizes))
    rng = np.random.default_rng(1)
    block = rng.standard_normal(1 << 16, np.float32) * 0.01 + np.float32(value)
    tensors = {t.name: np.resize(block, t.shape) for t in schema.tensors}
    return b"".join(iter_document(tensors, schema))


@dataclass(slots=True)
class Platform:
    """A running platform and the means to look at it."""

    paths: Paths
    state: dict[str, Any]

    def pids(self) -> list[int]:
        """Return every process of the platform but the supervisor, workers included."""
        supervisor = psutil.Process(self.state["pid"])
        return [p.pid for p in supervisor.children(recursive=True)]

    def cpu(self) -> float:
        """Return CPU seconds used so far by every platform process (nanosecond accounting)."""
        return sum(_cpu_of(pid) for pid in [*self.pids(), self.state["pid"]])

    def cpu_of_ended(self) -> float:
        """Return CPU seconds of processes that have ended, to the clock's tick.

        Every process of the platform is waited for by another of it, whose account has them.
        """
        ticks = 0
        for pid in [*self.pids(), self.state["pid"]]:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
                ticks += int(fields[13]) + int(fields[14])  # cutime, cstime
        return ticks / os.sysconf("SC_CLK_TCK")

    def private_bytes(self) -> int:
        """Return anonymous memory of all platform processes: what is theirs, not the pool's.

        Pages that a gunicorn master shares with its worker count once.
        """
        supervisor = psutil.Process(self.state["pid"])
        found = {p.pid: p.ppid() for p in supervisor.children(recursive=True)}
        parents = set(found.values())
        return sum(_private(p) if p in parents else _anonymous(p) for p in found)

    def watched(self) -> dict[str, Any]:
        """Return what gateways and the controller are told: jobs and nodes."""
        return self.await_told(lambda told: told, "the coordinator")

    def await_told(
        self, probe: Callable[[dict[str, Any]], T | None], what: str, seconds: float = WAIT_SECONDS
    ) -> T:
        """Return the first result but None of ``probe`` on what gateways are told.

        A parked watch brings each change. Raises TimeoutError, which names ``what``, after
        ``seconds``.
        """
        secret = bytes.fromhex(self.paths.secret())
        token = mint_platform_token(secret, "bench")
        deadline, revision = time.monotonic() + seconds, 0
        with contextlib.closing(HttpClient(self.state["coordinator_url"], token)) as http:
            while (left := deadline - time.monotonic()) > 0:
                path = f"/internal/v1/watch?since={revision}&wait={left:.3f}"
                told: dict[str, Any] = http.json("GET", path, timeout=left + 10.0)
                if (found := probe(told)) is not None:
                    return found
                revision = told["rev"]
        raise TimeoutError(f"waited {seconds:.0f} s for {what}")

    def await_nodes(self, number: int) -> None:
        """Wait until the gateways of so many nodes have said that they are there."""
        self.await_told(lambda told: len(told["nodes"]) >= number or None, f"{number} nodes")

    def started(self, until: float = math.inf) -> int:
        """Return how many aggregators the controller has started, by its log.

        ``until`` (unix seconds) leaves out those of a round that opened since.
        """
        log = self.paths.log("controller").read_text()
        return sum(_unix(at, ms) <= until for at, ms in _STARTED.findall(log))

    def admin(self, node: str = "node-0") -> AgentAdmin:
        """Return a connection to a node's agent."""
        return AgentAdmin(naming.admin_socket(self.paths.run, node))


def _unix(local: str, milliseconds: str) -> float:
    return time.mktime(time.strptime(local, "%Y-%m-%d %H:%M:%S")) + int(milliseconds) / 1e3


def _cpu_of(pid: int) -> float:
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _anonymous(pid: int) -> int:
    return _kilobytes(f"/proc/{pid}/status", "RssAnon:")  # smaps would walk the pool's pages


def _private(pid: int) -> int:
    return _kilobytes(f"/proc/{pid}/smaps_rollup", "Private_Dirty:")  # of who maps no pool


def _kilobytes(path: str, key: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def platform(nodes: int = 1, dataplane: str | None = None) -> Iterator[Platform]:
    """Run a platform in a directory of its own, on free ports; remove it afterwards."""
    home = Path(tempfile.mkdtemp(prefix="lifl-bench-", dir="/tmp"))
    home.chmod(0o711)
    paths = Paths(home)
    chosen = dataplane or doctor.default_dataplane()[0]
    with environment({"LIFL_HOME": str(home)}):
        try:
            arguments = [
                "--nodes",
                str(nodes),
                "--dataplane",
                chosen,
                "--port",
                str(closed_ports(nodes)),
            ]
            state = running.detach(paths, arguments, UP_SECONDS)
            yield Platform(paths, state)
        finally:
            running.down(paths)
            shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, and put back what was there."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def dump(value: Any) -> str:
    """Return compact JSON for a note."""
    return json.dumps(value, separators=(",", ":"))
