"""The aggregator as it is deployed: gunicorn, a real agent, both data planes."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lifl.dataplane import registration as registration_module
from lifl.dataplane.admin import AgentAdmin
from lifl.dataplane.registration import Registration
from lifl.errors import LiflError
from lifl.naming import admin_socket, agent_socket, node_dir, pin_dir
from lifl.store import PoolGeometry, Seal, SlotKind, SlotRef
from lifl.topology import Level, Plan, Role, Timing
from lifl.update import Schema, iter_document
from lifl.wire import Descriptor, Opcode

JOB, NODE = "digits", "node-0"
SCHEMA = Schema.of({"w": np.zeros(5000, np.float32), "steps": np.zeros(1, np.int64)})
PATIENCE = 20.0


def update(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal(5000).astype(np.float32), "steps": rng.integers(0, 99, 1)}


def flat_mean(seeds, samples) -> np.ndarray:
    total = sum(n * update(s)["w"].astype(np.float64) for s, n in zip(seeds, samples, strict=True))
    return total / sum(samples)


def until(ask: Callable[[], bool]) -> bool:
    """Return the first true answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class Node:
    """A real agent, aggregator processes, and this test as gateway and coordinator."""

    def __init__(self, run: Path, dataplane: str) -> None:
        self.run = run
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONUNBUFFERED": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "LIFL_RUN_DIR": str(run),
            "LIFL_NODE": NODE,
            "LIFL_AGENT_SOCKET": str(agent_socket(run, NODE)),
            "LIFL_ADMIN_SOCKET": str(admin_socket(run, NODE)),
            "LIFL_DATAPLANE": dataplane,
        }
        node_dir(run, NODE).mkdir(parents=True)
        self.start_agent()
        self.admin = AgentAdmin(admin_socket(run, NODE))
        until(self._agent_answers)
        pages = -(-SCHEMA.float_bytes // 4096) * 4096
        self.admin.create_domain(JOB, os.geteuid(), PoolGeometry(24, pages, 16384))
        self.gateway = self._register("gateway")
        self.coordinator = self._register("coordinator")
        self.serial = 0

    def _agent_answers(self) -> bool:
        assert self.processes["agent"].poll() is None, self.log("agent")
        try:
            return bool(self.admin.info())
        except LiflError:
            return False

    def _register(self, kind: str) -> Registration:
        made = Registration.open(agent_socket(self.run, NODE), kind=kind, name=kind, domain=JOB)
        made.ready()
        return made

    def _start(self, name: str, *argv: str, **env: str) -> subprocess.Popen[bytes]:
        with (self.run / f"{name}.log").open("ab") as log:
            made = subprocess.Popen(
                [sys.executable, "-m", *argv], env=self.env | env, cwd="/", stdout=log, stderr=log
            )
        self.processes[name] = made
        return made

    def start_agent(self) -> None:
        self._start("agent", "ebpf.agent")

    def start_aggregator(self, name: str, **env: str) -> int:
        """Start it and return its port."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self._start(
            name,
            "gunicorn",
            "-c",
            "python:functions.aggregator.gunicorn_conf",
            "functions.aggregator.app:app",
            LIFL_NAME=name,
            LIFL_DOMAIN=JOB,
            PORT=str(port),
            **env,
        )
        return port

    def wait_ready(self, *names: str) -> None:
        until(lambda: set(names) <= {e["name"] for e in self.admin.endpoints() if e["ready"]})

    def pid(self, name: str) -> int:
        return next(e["pid"] for e in self.admin.endpoints() if e["name"] == name)

    def log(self, name: str) -> str:
        return (self.run / f"{name}.log").read_text()

    def plan(self, roles: list[Role], assignment: int = 1, timing: Timing = Timing.EAGER) -> None:
        self.admin.apply(Plan(JOB, assignment, 1, timing, tuple(roles)))

    def post(self, seed: int, samples: int, assignment: int = 1) -> None:
        """Seal an update and send its descriptor, as a gateway does."""
        pool = self.gateway.pool
        ref = pool.reserve(SlotKind.UPDATE, self.gateway.endpoint, assignment, ingest=True)
        document = b"".join(bytes(p) for p in iter_document(update(seed), SCHEMA))
        start = pool.geometry.meta_bytes - SCHEMA.float_start
        pool.slot_bytes(ref.slot)[start : start + len(document)] = document
        self.serial += 1
        pool.seal(ref, self.gateway.endpoint, Seal(self.serial, samples, start, len(document)))
        d = Descriptor(Opcode.OBJECT, ref.slot, ref.generation, assignment, 5)
        self.gateway.channel.send(d)

    def result(self, updates: int) -> tuple[np.ndarray, set[int]]:
        """Wait until ``updates`` updates have arrived at the coordinator; return mean and cover."""
        pool, me = self.coordinator.pool, self.coordinator
        total, weight, cover = np.zeros(5000), 0.0, set[int]()
        deadline = time.monotonic() + PATIENCE
        while len(cover) < updates:
            assert time.monotonic() < deadline, f"only {sorted(cover)} came"
            for d in me.channel.recv(0.1):
                ref = SlotRef(d.slot, d.generation)
                try:
                    entry = pool.take(ref, me.endpoint)
                except LiflError:
                    continue
                serials = set(pool.cover(ref.slot).tolist())
                assert cover.isdisjoint(serials)
                cover |= serials
                factor = entry.weight if entry.layout == 2 else 1.0
                total += factor * pool.floats(ref.slot)[:5000].astype(np.float64)
                weight += entry.weight
                pool.release(ref, me.endpoint)
        return total / weight, cover

    def stop(self) -> None:
        self.gateway.close()
        self.coordinator.close()
        self.admin.close()
        agent = self.processes.pop("agent")
        for process in self.processes.values():
            process.terminate()
        stuck = [name for name, process in self.processes.items() if not _ended(process)]
        agent.terminate()
        stuck += [] if _ended(agent) else ["agent"]
        if agent.returncode:  # a test killed it
            clear = [sys.executable, "-m", "ebpf.agent", "--clear"]
            subprocess.run(clear, env=self.env, cwd="/", check=True)
        assert not pin_dir(self.run, NODE).exists()
        assert not stuck, "\n".join(self.log(name) for name in stuck)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait for a process's end; one that does not come to it by itself is killed."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


@pytest.fixture(params=["socket", pytest.param("ebpf", marks=pytest.mark.ebpf)])
def node(request, tmp_path_factory, monkeypatch) -> Iterator[Node]:
    # Not for the whole test process: later tests look into its own /proc.
    monkeypatch.setattr(registration_module, "seal_process", lambda: None)
    made = Node(tmp_path_factory.mktemp("run"), request.param)
    yield made
    made.stop()


def two_levels(goal: int = 3) -> list[Role]:
    leaves = [Role(f"agg-{i}", NODE, Level.LEAF, goal, "agg-top") for i in (0, 1)]
    return [*leaves, Role("agg-top", NODE, Level.TOP, 2)]


def close(got, expected) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("timing", [Timing.EAGER, Timing.LAZY])
def test_a_tree_of_processes_sums_the_flat_mean(node, timing):
    names = ("agg-0", "agg-1", "agg-top")
    for name in names:
        node.start_aggregator(name)
    node.wait_ready(*names)
    seeds, samples = range(6), [1, 20, 3, 40, 5, 60]
    for assignment in (1, 2):
        node.plan(two_levels(), assignment, timing)
        for seed, n in zip(seeds, samples, strict=True):
            node.post(seed, n, assignment)
        mean, _ = node.result(6)
        close(mean, flat_mean(seeds, samples))
        node.admin.end_assignment(JOB, assignment)
    usage = node.gateway.pool.usage()
    assert (usage.sealed, usage.taken, usage.writing) == (0, 0, 0)


def test_the_goal_is_a_hint_and_closing_flushes(node):
    for name in ("agg-0", "agg-1", "agg-top"):
        node.start_aggregator(name)
    node.wait_ready("agg-0", "agg-1", "agg-top")
    node.plan(two_levels(goal=50))
    for seed in range(5):
        node.post(seed, seed + 1)
    node.admin.close_assignment(JOB, 1)
    mean, _ = node.result(5)
    close(mean, flat_mean(range(5), range(1, 6)))


@pytest.mark.parametrize(
    "point", ["after-take", "after-add", "before-seal", "after-seal", "before-send"]
)
def test_killed_at_a_step_the_result_is_the_same(node, tmp_path, point):
    tmp_path.chmod(0o777)
    token = tmp_path / point
    token.touch()
    names = ("agg-0", "agg-1", "agg-top")
    for name in names:
        node.start_aggregator(name, LIFL_CRASH_DIR=str(tmp_path))
    node.wait_ready(*names)
    node.plan(two_levels())
    for seed in range(6):
        node.post(seed, 10 * seed + 1)
    until(lambda: not token.exists())
    node.admin.close_assignment(JOB, 1)
    mean, _ = node.result(6)
    close(mean, flat_mean(range(6), [10 * s + 1 for s in range(6)]))


def test_it_outlives_the_agent_with_what_it_holds(node):
    node.start_aggregator("agg-top")
    node.wait_ready("agg-top")
    node.plan([Role("agg-top", NODE, Level.TOP, 2)])
    node.post(1, 3)
    until(lambda: node.gateway.pool.usage().taken == 1)
    node.processes["agent"].send_signal(signal.SIGKILL)
    node.processes["agent"].wait()
    node.start_agent()
    for mine in (node.gateway, node.coordinator):
        until(mine.lost)
        mine.resume(timeout=PATIENCE)
    until(lambda: "registered again" in node.log("agg-top"))
    node.post(2, 5)
    mean, cover = node.result(2)
    assert cover == {1, 2}
    close(mean, flat_mean([1, 2], [3, 5]))


def test_sigterm_sends_on_what_it_holds(node):
    node.start_aggregator("agg-top")
    node.wait_ready("agg-top")
    node.plan([Role("agg-top", NODE, Level.TOP, 9)])
    node.post(1, 3)
    node.post(2, 5)
    until(lambda: node.gateway.pool.usage().taken == 2)
    process = node.processes["agg-top"]
    process.terminate()
    assert process.wait(10) == 0
    mean, _ = node.result(2)
    close(mean, flat_mean([1, 2], [3, 5]))
    assert "agg-top" not in {e["name"] for e in node.admin.endpoints()}


def test_while_it_drains_it_goes_on_summing(node):
    port = node.start_aggregator("agg-top", LIFL_DRAIN_SECONDS="2")
    node.wait_ready("agg-top")
    node.plan([Role("agg-top", NODE, Level.TOP, 9)])
    node.post(1, 3)
    until(lambda: node.gateway.pool.usage().taken == 1)

    def readiness() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status
        finally:
            connection.close()

    until(lambda: readiness() == 200)
    process = node.processes["agg-top"]
    process.terminate()
    until(lambda: readiness() == 503)
    node.post(2, 5)
    until(lambda: node.gateway.pool.usage().taken == 2)
    assert process.poll() is None
    assert process.wait(10) == 0
    mean, _ = node.result(2)
    close(mean, flat_mean([1, 2], [3, 5]))


def test_probes_metrics_and_no_payloads(node):
    port = node.start_aggregator("agg-top")
    node.wait_ready("agg-top")
    node.plan([Role("agg-top", NODE, Level.TOP, 1)])
    node.post(1, 3)
    node.result(1)

    def ask(method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionRefusedError:
            return 0, ""
        finally:
            connection.close()

    until(lambda: ask("GET", "/readyz")[0] == 200)
    assert ask("GET", "/healthz")[0] == 200
    assert "lifl_aggregator_objects_added_total 1.0" in ask("GET", "/metrics")[1]
    assert ask("POST", "/", b"x")[0] == 404


def added(port: int) -> float:
    """Return how many objects an aggregator says it has added; -1 while it says nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except ConnectionRefusedError:
        return -1.0
    finally:
        connection.close()
    row = next(r for r in text.splitlines() if r.startswith("lifl_aggregator_objects_added_total"))
    return float(row.split()[1])


def test_what_completes_a_leafs_sum_is_added_by_the_top(node):
    leaf, top = (node.start_aggregator(name) for name in ("agg-0", "agg-top"))
    node.wait_ready("agg-0", "agg-top")
    node.plan(
        [
            Role("agg-0", NODE, Level.LEAF, 2, "agg-top"),
            Role("agg-top", NODE, Level.TOP, 1),
        ]
    )
    node.post(1, 3)
    until(lambda: added(leaf) == 1)
    node.post(2, 5)
    mean, cover = node.result(2)
    assert cover == {1, 2}
    close(mean, flat_mean([1, 2], [3, 5]))
    assert (added(leaf), added(top)) == (1, 2)
    assert node.gateway.pool.usage().taken == 0


def test_without_an_agent_it_ends_in_the_end(node):
    node.start_aggregator("agg-top", LIFL_AGENT_PATIENCE="0.5")
    node.wait_ready("agg-top")
    agent = node.processes["agent"]
    agent.kill()
    agent.wait()
    assert node.processes["agg-top"].wait(PATIENCE) == 0
    assert "no agent for" in node.log("agg-top")


def test_a_dead_master_takes_its_worker_along(node):
    node.start_aggregator("agg-top")
    node.wait_ready("agg-top")
    node.processes["agg-top"].kill()
    until(lambda: "agg-top" not in {e["name"] for e in node.admin.endpoints()})


def test_a_dead_worker_is_replaced_and_takes_its_role_again(node):
    node.start_aggregator("agg-top")
    node.wait_ready("agg-top")
    node.plan([Role("agg-top", NODE, Level.TOP, 2)])
    node.post(1, 3)
    until(lambda: node.gateway.pool.usage().taken == 1)
    dead = node.pid("agg-top")
    os.kill(dead, signal.SIGKILL)
    until(lambda: "agg-top" in {e["name"] for e in node.admin.endpoints() if e["pid"] != dead})
    node.wait_ready("agg-top")
    node.post(2, 5)
    mean, cover = node.result(2)
    assert cover == {1, 2}
    close(mean, flat_mean([1, 2], [3, 5]))
