"""The coordinator as it is deployed: gunicorn, a real agent, a real aggregator, real deaths."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from functions.coordinator.authority import SUPERSEDED_STATUS
from functions.coordinator.state import open_store
from lifl.auth import mint_platform_token
from lifl.client.http import HttpClient, HttpError
from lifl.dataplane import registration as registration_module
from lifl.dataplane.admin import AgentAdmin
from lifl.dataplane.registration import Registration
from lifl.errors import LiflError, NotDelivered, Unavailable
from lifl.naming import admin_socket, agent_socket, node_dir
from lifl.store import PoolGeometry, Seal, SlotKind, SlotRef
from lifl.topology import Level, Plan, Role, Timing
from lifl.update import Schema, iter_document
from lifl.wire import Descriptor, Opcode

JOB, NODE = "digits", "node-0"
SECRET = "5a" * 32
SIZE = 20000
MODEL = {"w": np.zeros(SIZE, np.float32), "steps": np.zeros(1, np.int64)}
SCHEMA = Schema.of(MODEL)
CLIENTS = ["c0", "c1", "c2"]
SAMPLES = [3, 10, 7]
PATIENCE = 30.0


def until(ask: Callable[[], Any]) -> Any:
    """Return the first true answer."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := ask()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return answer


def update(round_number: int, client: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([round_number, client])
    return {"w": rng.standard_normal(SIZE).astype(np.float32), "steps": rng.integers(0, 99, 1)}


def job_file(**spec: Any) -> dict[str, Any]:
    full = {"rounds": 2, "clients": {"perRound": 3, "names": CLIENTS}} | spec
    return {
        "apiVersion": "lifl.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": JOB},
        "spec": full,
    }


class Platform:
    """A real agent, coordinator and aggregator; this test is controller and gateway."""

    def __init__(self, home: Path, dataplane: str = "socket", **env: str) -> None:
        self.home, self.run = home, home / "run"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "OPENBLAS_NUM_THREADS": "1",
            "LIFL_HOME": str(home),
            "LIFL_RUN_DIR": str(self.run),
            "LIFL_NODE": NODE,
            "LIFL_HOST": "127.0.0.1",
            "LIFL_AGENT_SOCKET": str(agent_socket(self.run, NODE)),
            "LIFL_ADMIN_SOCKET": str(admin_socket(self.run, NODE)),
            "LIFL_DATAPLANE": dataplane,
            "LIFL_PLATFORM_SECRET": SECRET,
        }
        node_dir(self.run, NODE).mkdir(parents=True)
        self.spawn("agent", "ebpf.agent")
        self.admin = AgentAdmin(admin_socket(self.run, NODE))
        self.gateway: Registration | None = None
        self.start_coordinator(**env)
        token = mint_platform_token(bytes.fromhex(SECRET), "test")
        self.http = HttpClient(f"http://127.0.0.1:{self.port}", token)
        until(lambda: self.quietly("GET", "/readyz"))
        until(self._agent_answers)

    def spawn(self, name: str, *argv: str, **env: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            made = subprocess.Popen(
                [sys.executable, "-m", *argv], env=self.env | env, cwd="/", stdout=log, stderr=log
            )
        self.processes[name] = made
        return made

    def start_coordinator(self, **env: str) -> None:
        self.spawn(
            "coordinator",
            "gunicorn",
            "-c",
            "python:functions.coordinator.gunicorn_conf",
            "functions.coordinator.app:app",
            LIFL_NAME="coordinator",
            PORT=str(self.port),
            **env,
        )

    def _agent_answers(self) -> bool:
        try:
            return bool(self.admin.info())
        except LiflError:
            return False

    def quietly(self, method: str, path: str) -> Any:
        try:
            return self.http.json(method, path)
        except Unavailable:
            return None

    def patiently(self, method: str, path: str, body: Any = None) -> Any:
        """Ask until there is an answer, as gateways do."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.http.json(method, path, body)
            except Unavailable:
                assert time.monotonic() < deadline, self.log("coordinator")
                time.sleep(0.02)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()

    def view(self) -> dict[str, Any]:
        return dict(self.patiently("GET", "/internal/v1/watch")["jobs"][0])

    def submit(self, **spec: Any) -> None:
        """Submit the job, make its domain, start its aggregator, be its gateway."""
        self.http.json("POST", "/v1/jobs", {"spec": job_file(**spec)})
        answer = self.http.request("PUT", f"/v1/jobs/{JOB}/model", body=save(MODEL))
        assert answer.status == 201, answer.data
        geometry = PoolGeometry(**self.view()["geometry"])
        self.admin.create_domain(JOB, os.geteuid(), geometry)
        self.gateway = Registration.open(
            agent_socket(self.run, NODE), kind="gateway", name="gateway", domain=JOB
        )
        self.gateway.ready()
        self.spawn(
            "aggregator",
            "gunicorn",
            "-c",
            "python:functions.aggregator.gunicorn_conf",
            "functions.aggregator.app:app",
            LIFL_NAME="agg",
            LIFL_DOMAIN=JOB,
            PORT="0",
        )
        self.wait_ready("agg", "coordinator")

    def wait_ready(self, *names: str) -> None:
        until(lambda: set(names) <= {e["name"] for e in self.admin.endpoints() if e["ready"]})

    def plan(self) -> int:
        """Open the round, as the controller does; return its assignment."""
        view = until(lambda: (v := self.view())["phase"] in ("planning", "open") and v)
        role = Role("agg", NODE, Level.TOP, len(CLIENTS))
        plan = Plan(JOB, view["assignment"], 1, Timing.EAGER, (role,))
        self.admin.apply(plan)
        body = {"plan": plan.to_json(), "round": view["round"]}
        self.patiently("PUT", f"/internal/v1/jobs/{JOB}/plan", body)
        return plan.assignment

    def post(self, round_number: int, assignment: int, client: int) -> None:
        """Post an update as a gateway does: claim, seal, descriptor; until it is accepted."""
        assert self.gateway is not None
        pool, me = self.gateway.pool, self.gateway.endpoint
        document = b"".join(bytes(p) for p in iter_document(update(round_number, client), SCHEMA))
        start = pool.geometry.meta_bytes - SCHEMA.float_start
        ask = {
            "job": JOB,
            "round": round_number,
            "client": CLIENTS[client],
            "node": NODE,
            "num_samples": SAMPLES[client],
            "nbytes": len(document),
        }
        while True:
            claim = self.patiently("POST", "/internal/v1/claims", ask)
            if claim.get("duplicate"):
                return
            ref = pool.reserve(SlotKind.UPDATE, me, assignment, ingest=True)
            pool.slot_bytes(ref.slot)[start : start + len(document)] = document
            place = {"job": JOB, "node": NODE, "slot": ref.slot, "generation": ref.generation}
            try:
                path = f"/internal/v1/claims/{claim['claim']}/sealed"
                self.patiently("POST", path, place | {"digest": f"d{client}"})
            except HttpError as e:
                assert e.code == "claim-gone", e
                pool.drop(ref, me)
                continue
            pool.seal(ref, me, Seal(claim["claim"], SAMPLES[client], start, len(document)))
            d = Descriptor(Opcode.OBJECT, ref.slot, ref.generation, assignment, 20)
            with contextlib.suppress(NotDelivered):  # the agent sends it again
                self.gateway.channel.send(d)

    def model(self) -> tuple[int, dict[str, np.ndarray]]:
        answer = self.http.request("GET", f"/internal/v1/jobs/{JOB}/model")
        return int(answer.headers["LIFL-Model-Version"]), load(answer.data)

    def shared_model(self) -> dict[str, np.ndarray]:
        """Return the model that the view names, out of shared memory."""
        assert self.gateway is not None
        place = until(lambda: self.view()["model"])
        pool, lane = self.gateway.pool, self.gateway.lane
        ref = SlotRef(place["slot"], place["generation"])
        pool.pin(ref, lane)
        at = place["doc_start"]
        raw = bytes(pool.slot_bytes(ref.slot)[at : at + place["doc_bytes"]])
        pool.unpin(ref, lane)
        return load(raw)

    def run_round(self, number: int) -> None:
        assignment = self.plan()
        for client in range(len(CLIENTS)):
            self.post(number, assignment, client)
        view = until(lambda: (v := self.view())["version"] == number and v)
        assert view["round"] == min(number + 1, 2)
        self.admin.end_assignment(JOB, assignment)

    def stop(self) -> None:
        if self.gateway is not None:
            self.gateway.close()
        self.http.close()
        self.admin.close()
        for name in ("aggregator", "coordinator", "agent"):
            process = self.processes.get(name)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def expected(number: int) -> np.ndarray:
    total = sum(n * update(number, i)["w"].astype(np.float64) for i, n in enumerate(SAMPLES))
    return np.asarray(total / sum(SAMPLES))


def check_result(platform: Platform) -> None:
    """Two rounds were run: the model is the second's mean, every update counted once."""
    version, model = platform.model()
    assert version == 2
    np.testing.assert_allclose(model["w"], expected(2), rtol=1e-5, atol=1e-6)
    assert model["steps"] == max(update(2, i)["steps"] for i in range(3))
    np.testing.assert_array_equal(platform.shared_model()["w"], model["w"])
    history = platform.patiently("GET", f"/v1/jobs/{JOB}/history")["rounds"]
    assert [(h["round"], h["accepted"], h["aggregated"], h["samples"]) for h in history] == [
        (1, 3, 3, 20.0),
        (2, 3, 3, 20.0),
    ]
    assert platform.view()["phase"] == "done"


@pytest.fixture
def platform(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Platform]]:
    # Not for the whole test process: later tests look into its own /proc.
    monkeypatch.setattr(registration_module, "seal_process", lambda: None)
    made: list[Platform] = []

    def make(dataplane: str = "socket", **env: str) -> Platform:
        made.append(Platform(tmp_path_factory.mktemp("lifl"), dataplane, **env))
        return made[-1]

    yield make
    for p in made:
        p.stop()


@pytest.mark.parametrize("dataplane", ["socket", pytest.param("ebpf", marks=pytest.mark.ebpf)])
def test_two_rounds(platform, dataplane):
    p = platform(dataplane)
    p.submit()
    p.run_round(1)
    np.testing.assert_allclose(p.shared_model()["w"], expected(1), rtol=1e-5, atol=1e-6)
    p.run_round(2)
    check_result(p)


@pytest.mark.parametrize(
    "point",
    ["opened", "claimed", "sealed", "computed", "checkpointed", "committed", "sealed-model"],
)
def test_killed_at(platform, tmp_path, point):
    """SIGKILL at a step: gunicorn starts another worker, and the result is the same."""
    armed = tmp_path / point
    armed.touch()
    p = platform(LIFL_CRASH_DIR=str(tmp_path))
    p.submit()
    p.run_round(1)
    assert not armed.exists()
    p.run_round(2)
    check_result(p)


def test_killed_whole_and_started_anew(platform):
    """SIGKILL of master and worker between updates, three times in a round."""
    p = platform()
    p.submit()
    for number in (1, 2):
        assignment = p.plan()
        for client in range(3):
            p.post(number, assignment, client)
            kill_tree(p.processes["coordinator"])
            p.start_coordinator()
        until(lambda number=number: p.view()["version"] == number)
        p.wait_ready("coordinator")
    check_result(p)


def kill_tree(master: subprocess.Popen[bytes]) -> None:
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
    master.kill()
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)
    master.wait()


def test_a_restarted_agent_is_found_again(platform):
    p = platform()
    p.submit()
    p.run_round(1)
    p.processes["agent"].kill()
    p.processes["agent"].wait()
    p.spawn("agent", "ebpf.agent")
    assert p.gateway is not None
    p.gateway.resume(timeout=10)
    p.wait_ready("agg", "coordinator", "gateway")
    p.run_round(2)
    check_result(p)


def test_a_model_may_come_in_chunks(platform):
    """As every body does by way of OpenFaaS's gateway."""
    p = platform()
    p.http.json("POST", "/v1/jobs", {"spec": job_file()})
    whole = save(MODEL)
    pieces = (whole[i : i + 1000] for i in range(0, len(whole), 1000))
    answer = p.http.request("PUT", f"/v1/jobs/{JOB}/model", body=pieces)
    assert answer.status == 201, answer.data
    version, model = p.model()
    assert version == 0
    np.testing.assert_array_equal(model["w"], MODEL["w"])


def test_claims_are_quick_while_watches_are_parked(platform, record_property):
    p = platform()
    names = [f"c{i}" for i in range(600)]
    p.http.json("POST", "/v1/jobs", {"spec": job_file(clients={"perRound": 600, "names": names})})
    assert p.http.request("PUT", f"/v1/jobs/{JOB}/model", body=save(MODEL)).status == 201
    plan = Plan(JOB, 1, 1, Timing.EAGER, ())
    p.http.json("PUT", f"/internal/v1/jobs/{JOB}/plan", {"plan": plan.to_json(), "round": 1})
    headers = {
        "Authorization": f"Bearer {mint_platform_token(bytes.fromhex(SECRET), 'gateway')}",
        "Content-Type": "application/json",
    }
    ended = threading.Event()

    def watch() -> None:
        with_watch = HttpClient(f"http://127.0.0.1:{p.port}", headers["Authorization"][7:])
        revision = 0
        while not ended.is_set():
            path = f"/internal/v1/watch?since={revision}&wait=5"
            try:
                revision = with_watch.json("GET", path, timeout=10)["rev"]
            except Unavailable:
                return
        with_watch.close()

    watchers = [threading.Thread(target=watch) for _ in range(4)]
    for w in watchers:
        w.start()
    connection = http.client.HTTPConnection("127.0.0.1", p.port)
    times: list[float] = []
    for name in names:
        body = {
            "job": JOB,
            "round": 1,
            "client": name,
            "node": NODE,
            "num_samples": 1,
            "nbytes": 1,
        }
        start = time.perf_counter()
        connection.request("POST", "/internal/v1/claims", json.dumps(body), headers)
        answer = connection.getresponse()
        granted = json.loads(answer.read())
        times.append(time.perf_counter() - start)
        assert answer.status == 201, granted
    ended.set()
    connection.close()
    p.http.json("POST", f"/v1/jobs/{JOB}/stop")
    for w in watchers:
        w.join(10)
    median = statistics.median(times) * 1e3
    record_property("claim_ms_median", median)
    print(f"claim: median {median:.2f} ms, p99 {sorted(times)[-6] * 1e3:.2f} ms")
    assert median < 10.0  # about 1 ms on a quiet machine


def test_as_many_nodes_may_watch_as_a_large_cluster_has(platform):
    p = platform()
    rev = p.http.json("GET", "/internal/v1/watch")["rev"]
    token = mint_platform_token(bytes.fromhex(SECRET), "gateway")
    path = f"/internal/v1/watch?since={rev}&wait=25"
    with contextlib.ExitStack() as opened:
        watches = []
        for _ in range(150):
            connection = opened.enter_context(
                contextlib.closing(http.client.HTTPConnection("127.0.0.1", p.port, timeout=20))
            )
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            watches.append(connection)
        parked = b"lifl_coordinator_watches 150.0"
        until(lambda: parked in p.http.request("GET", "/metrics").data)
        news = {"gateway_url": "http://127.0.0.1:9", "clients": {}}
        p.http.json("POST", "/internal/v1/nodes/node-9", news)
        told = [json.loads(w.getresponse().read()) for w in watches]
    assert all("node-9" in {n["node"] for n in t["nodes"]} for t in told)


def test_a_graceful_end_lets_watches_go_at_once(platform):
    p = platform()
    rev = p.http.json("GET", "/internal/v1/watch")["rev"]
    answers: list[Any] = []

    def watch() -> None:
        answers.append(p.http.json("GET", f"/internal/v1/watch?since={rev}&wait=25", timeout=30))

    watcher = threading.Thread(target=watch)
    watcher.start()
    parked = b"lifl_coordinator_watches 1.0"
    until(lambda: parked in p.http.request("GET", "/metrics").data)
    process = p.processes.pop("coordinator")
    start = time.monotonic()
    process.terminate()
    assert process.wait(15) == 0
    watcher.join(5)
    assert answers[0]["rev"] == rev
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_the_newer_of_two_coordinators_goes_on_and_the_older_ends(
    request, platform, tmp_path, kind
):
    """A rolling update: the new one starts beside the old one, in the middle of a round."""
    url = (
        f"sqlite://{tmp_path}/lifl.db" if kind == "sqlite" else request.getfixturevalue("redis_url")
    )
    p = platform(LIFL_STATE_URL=url)
    p.submit()
    p.run_round(1)
    assignment = p.plan()
    p.post(2, assignment, 0)
    old, old_http = p.processes["coordinator"], p.http
    request.addfinalizer(old.kill)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        p.port = s.getsockname()[1]
    p.http = HttpClient(
        f"http://127.0.0.1:{p.port}", mint_platform_token(bytes.fromhex(SECRET), "t")
    )
    p.start_coordinator(LIFL_STATE_URL=url)
    until(lambda: p.quietly("GET", "/readyz"))
    ask = {
        "job": JOB,
        "round": 2,
        "client": CLIENTS[0],
        "node": NODE,
        "num_samples": SAMPLES[0],
        "nbytes": 1,
    }
    with pytest.raises(Unavailable):  # it knows this update; to say so is no longer its part
        old_http.json("POST", "/internal/v1/claims", ask)
    old_http.close()
    assert old.wait(10) == SUPERSEDED_STATUS
    assert p.log("coordinator").count("this one ends") == 1
    assert p.patiently("POST", "/internal/v1/claims", ask)["duplicate"]
    p.post(2, assignment, 1)
    p.post(2, assignment, 2)
    until(lambda: p.view()["version"] == 2)
    p.wait_ready("coordinator")
    check_result(p)
    assert p.processes["coordinator"].poll() is None


def test_an_idle_coordinator_that_was_superseded_ends_by_itself(platform, tmp_path):
    url = f"sqlite://{tmp_path}/lifl.db"
    p = platform(LIFL_STATE_URL=url)
    open_store(url).close()
    assert p.processes["coordinator"].wait(10) == SUPERSEDED_STATUS
