"""An agent as a process, functions of it as processes, and what tests do with them.

Why: several test modules need the same agent; it must not hold a test.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from lifl import naming
from lifl.dataplane.admin import AgentAdmin
from lifl.dataplane.registration import Registration
from lifl.errors import Unavailable
from lifl.store import PoolGeometry, Seal, SlotKind, SlotRef
from lifl.topology import Level, Plan, Role, Timing
from lifl.wire import Descriptor, Opcode

ROOT = Path(__file__).resolve().parents[2]
DOUBLE = Path(__file__).with_name("agent_double.py")
GEOMETRY = PoolGeometry(slots=16, float_bytes=8192, meta_bytes=4096)
NODE = "node-0"
JOB = "digits"


class Agent:
    """An agent process that can be killed and started again."""

    def __init__(self, run_dir: Path, dataplane: str) -> None:
        self.socket = naming.agent_socket(run_dir, NODE)
        self.admin = AgentAdmin(naming.admin_socket(run_dir, NODE), timeout=10.0)
        self.env = os.environ | {
            "LIFL_RUN_DIR": str(run_dir),
            "LIFL_NODE": NODE,
            "LIFL_DATAPLANE": dataplane,
            "LIFL_GRACE": "0.5",
            "LIFL_RESTART_GRACE": "3",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, tree: Path = ROOT, through: Sequence[str] = (), **env: str) -> None:
        """Start the agent of ``tree``; ``through`` is a command that becomes it."""
        self.begin(tree=tree, through=through, **env)
        until(self.answers, 20.0)

    def begin(self, *, tree: Path = ROOT, through: Sequence[str] = (), **env: str) -> None:
        """Start it, and do not wait until it serves."""
        self.process = subprocess.Popen(
            [*through, sys.executable, "-m", "ebpf.agent"],
            env=self.env | {"PYTHONPATH": str(ROOT)} | env,
            cwd=tree,
        )

    def hears(self) -> bool:
        """Whether SIGTERM does more than to end the process."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(r for r in status.splitlines() if r.startswith("SigCgt:")).split()[1]
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the agent ended"
        try:
            return bool(self.admin.info()["pid"] == self.process.pid)
        except Unavailable:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(10.0)
        self.admin.close()

    def clear(self) -> subprocess.CompletedProcess[str]:
        """Have what a killed one left taken away."""
        return subprocess.run(
            [sys.executable, "-m", "ebpf.agent", "--clear"],
            env=self.env | {"PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=20.0,
        )

    def open_fds(self) -> int:
        assert self.process is not None
        proc = Path(f"/proc/{self.process.pid}")
        try:
            return len(list((proc / "fd").iterdir()))
        except PermissionError:  # only root may look; a hundred more would show in the table's size
            rows = (proc / "status").read_text().splitlines()
            return next(int(r.split()[1]) for r in rows if r.startswith("FDSize:"))

    def events(self, name: str) -> int:
        return int(self.admin.counters()["events"].get(name, 0))


class Function:
    """A double in a process of its own."""

    def __init__(
        self,
        agent: Agent,
        name: str,
        kind: str = "aggregator",
        user: int = os.getuid(),
        gevent: bool = False,
        env: Mapping[str, str] = MappingProxyType({}),
    ):
        self.process = subprocess.Popen(
            [sys.executable, str(DOUBLE), str(agent.socket), kind, name, JOB, str(user)]
            + ["gevent"] * gevent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(env),
        )
        self.hello = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.tell(do, **arguments)
        return self._answer()

    def tell(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    answer = _answer

    def objects(self, timeout: float = 5.0) -> list[SlotRef]:
        found = [Descriptor(*d) for d in self.ask("recv", timeout=timeout)["descriptors"]]
        return [SlotRef(d.slot, d.generation) for d in found if d.opcode == Opcode.OBJECT]

    def await_flush(self) -> None:
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            found = self.ask("recv")["descriptors"]
            if any(d[0] == Opcode.FLUSH for d in found):
                return
        pytest.fail("no flush came")

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.process.wait(10.0)


def until(done: Callable[[], object], timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@contextlib.contextmanager
def running(dataplane: str, *, through: Sequence[str] = (), **env: str) -> Iterator[Agent]:
    """Run an agent with one job; afterwards nothing of it may be left."""
    run_dir = Path(tempfile.mkdtemp(prefix="lifl-agent-"))
    run_dir.chmod(0o755)
    agent = Agent(run_dir, dataplane)
    agent.env |= env
    agent.start(through=through)
    agent.admin.create_domain(JOB, os.getuid(), GEOMETRY, 4)
    try:
        yield agent
    finally:
        agent.stop()
        assert not agent.socket.exists()
        left = [p.name for p in agent.socket.parent.iterdir()]
        assert left == ["agent.lock"]
        shutil.rmtree(run_dir)


@contextlib.contextmanager
def starting(agent: Agent) -> Iterator[Callable[..., Function]]:
    """Yield how to start aggregators by name; they are killed afterwards."""
    started: list[Function] = []

    def start(name: str, *, ready: bool = True, **options: Any) -> Function:
        function = Function(agent, name, **options)
        assert "error" not in function.hello, function.hello
        started.append(function)
        if ready:
            function.ask("ready")
            until(lambda: named(agent, name)["ready"])
        return function

    yield start
    for function in started:
        if function.process.returncode is None:
            function.kill()


def registered(agent: Agent, kind: str, name: str) -> Iterator[Registration]:
    registration = Registration.open(agent.socket, kind=kind, name=name, domain=JOB)
    registration.ready()
    yield registration
    registration.close()


def named(agent: Agent, name: str) -> dict[str, Any]:
    return next((e for e in agent.admin.endpoints() if e["name"] == name), {})


def plan(*roles: tuple[str, Level, str | None], assignment: int = 1, epoch: int = 1) -> Plan:
    children = Counter(parent for _, _, parent in roles)
    found = tuple(
        Role(name, NODE, level, 1 if level is Level.LEAF else children[name] or 2, parent)
        for name, level, parent in roles
    )
    return Plan(JOB, assignment, epoch, Timing.EAGER, found)


TREE = (("agg-1", Level.LEAF, "agg-top"), ("agg-2", Level.LEAF, "agg-top"))
TWO_LEVELS = plan(*TREE, ("agg-top", Level.TOP, None))
PAIR = plan(("agg-1", Level.LEAF, "agg-top"), ("agg-top", Level.TOP, None))
LONE = plan(("agg-1", Level.TOP, None))


def put(gateway: Registration, serial: int, *, send: bool = True, assignment: int = 1) -> SlotRef:
    pool = gateway.pool
    ref = pool.reserve(SlotKind.UPDATE, gateway.endpoint, assignment, ingest=True)
    pool.floats(ref.slot)[0] = serial
    pool.seal(ref, gateway.endpoint, Seal(serial, 1.0, 4096, 8192))
    if send:
        gateway.channel.send(Descriptor(Opcode.OBJECT, *ref, assignment, 2))
    return ref


def take_one(function: Function) -> SlotRef:
    """Have a function take the next object; a descriptor may come twice."""
    while objects := function.objects():
        for ref in objects:
            answer = function.ask("take", **ref._asdict())
            if "error" not in answer:
                return ref  # the others, if any, are sent again
            assert answer["error"] in {"AlreadyTaken", "StaleObject"}
    pytest.fail("no object came")


def final(coordinator: Registration) -> tuple[list[int], float]:
    """Return cover and sum of the partial that comes to the coordinator."""
    [d] = coordinator.channel.recv(5.0)
    ref = SlotRef(d.slot, d.generation)
    coordinator.pool.take(ref, coordinator.endpoint)
    result = (
        coordinator.pool.cover(ref.slot).tolist(),
        float(coordinator.pool.floats(ref.slot)[0]),
    )
    coordinator.pool.release(ref, coordinator.endpoint)
    return result
