"""A real local platform for the figures, with one job of a given model size.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import psutil

from bench.clients import Sent, closed_ports, head
from lifl import naming
from lifl.auth import mint_client_token, mint_platform_token
from lifl.cli.access import Access
from lifl.cli.jobs import submit_job
from lifl.client.http import HttpClient, HttpError
from lifl.dataplane.admin import AgentAdmin
from lifl.platform import doctor, running
from lifl.platform.paths import Paths
from lifl.store import SlotKind
from lifl.update import Schema, TensorSpec, iter_document

T = TypeVar("T")

UP_SECONDS = 60.0
WAIT_SECONDS = 60.0
PARK_SECONDS = 5.0
ROUND_SECONDS = 300.0
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


class Job:
    """One submitted job, driven round by round from outside."""

    def __init__(
        self,
        running_platform: Platform,
        name: str,
        document: bytes,
        *,
        clients: int,
        fan_in: int = 2,
        slots: int | None = None,
        timing: str = "eager",
        rounds: int = 1000,
    ) -> None:
        self.platform = running_platform
        self.name = name
        self.posted_round = 0
        self.nbytes = len(document)
        access = Access(None, None)
        spec: dict[str, Any] = {
            "rounds": rounds,
            "model": {"path": "model.safetensors"},
            "clients": {"perRound": clients, "minimum": clients, "selection": "all"},
            "strategy": {"name": "fedavg"},
            "update": "weights",
            "aggregation": {"fanIn": fan_in, "timing": timing},
        }
        if slots is not None:
            spec["pool"] = {"slots": slots}
        job_file = {
            "apiVersion": "lifl.dev/v1alpha1",
            "kind": "FederatedJob",
            "metadata": {"name": name},
            "spec": spec,
        }
        submit_job(access, job_file, document)
        key = access.key(name)
        self.clients = [f"c{i}" for i in range(clients)]
        self.tokens = {c: mint_client_token(key, name, c) for c in self.clients}
        self.http = HttpClient(access.url, self.tokens[self.clients[0]])
        self.gateway = urlsplit(access.url)

    def ready(self, after: int = 0) -> dict[str, Any]:
        """Wait until a round later than ``after`` is open for everybody; return its answer."""
        answers = [self._current(client, after) for client in self.clients]
        self.wait_for_version(answers[0]["version"])
        return answers[0]

    def _current(self, client: str, after: int) -> dict[str, Any]:
        http = HttpClient(f"{self.gateway.scheme}://{self.gateway.netloc}", self.tokens[client])
        deadline = time.monotonic() + WAIT_SECONDS
        path = f"/v1/jobs/{self.name}/rounds/current?client={client}"
        while time.monotonic() < deadline:
            try:
                answer = http.json("GET", f"{path}&wait=0.2&after={after}", timeout=30)
            except HttpError as e:  # just submitted; the gateway does not know it yet
                if e.status != 404:
                    raise
                time.sleep(0.05)
                continue
            if answer["state"] == "open" and answer["round"] > after:
                http.close()
                return answer
        raise TimeoutError(f"no round after {after} opened for {client} in {WAIT_SECONDS} s")

    def requests(self, current: dict[str, Any]) -> list[tuple[str, int, bytes]]:
        """Return what each client sends in the present round."""
        url = urlsplit(current["upload_url"])
        host, port = url.hostname or "127.0.0.1", url.port or 80
        return [
            (host, port, head(host, port, url.path, self.nbytes, self.headers(i)))
            for i in range(len(self.clients))
        ]

    def opened(self, after: int = 0) -> dict[str, Any]:
        """Wait until a round later than ``after`` is open and every client has a node in it.

        Returns the job's view.
        """

        def probe(told: dict[str, Any]) -> dict[str, Any] | None:
            view = self._view_in(told)
            if view["round"] <= after or view["phase"] != "open":
                return None
            # where one node sums all, nobody has to be told which
            placed = len(view["clients"]) == len(self.clients) or len(nodes_of(view)) == 1
            return view if placed else None

        what = f"round {after + 1} of {self.name} to open"
        return self.platform.await_told(probe, what, ROUND_SECONDS)

    def committed(self, number: int) -> dict[str, Any]:
        """Wait until round ``number`` is committed; return the coordinator's account of it."""

        def probe(told: dict[str, Any]) -> bool | None:
            view = self._view_in(told)
            return view["round"] > number or view["phase"] == "done" or None

        what = f"round {number} of {self.name} to be committed"
        self.platform.await_told(probe, what, ROUND_SECONDS)
        return self.history()[-1]

    def placed_requests(
        self, view: dict[str, Any], samples: Sequence[int] | None = None
    ) -> list[tuple[str, int, bytes]]:
        """Return what each client sends in a round as ``view`` has it, each to its own node."""
        path = f"/v1/jobs/{self.name}/rounds/{view['round']}/updates"
        first = min(nodes_of(view))
        found = []
        for i, client in enumerate(self.clients):
            url = urlsplit(view["upload"][view["clients"].get(client, first)])
            host, port = url.hostname or "127.0.0.1", url.port or 80
            headers = self.headers(i, None if samples is None else samples[i])
            found.append((host, port, head(host, port, path, self.nbytes, headers)))
        return found

    def headers(self, index: int, samples: int | None = None) -> dict[str, str]:
        """Return the headers of one client's upload."""
        client = self.clients[index]
        return {
            naming.HEADER_CLIENT: client,
            naming.HEADER_NUM_SAMPLES: str(10 + index if samples is None else samples),
            "Authorization": f"Bearer {self.tokens[client]}",
        }

    def await_model(self, view: Mapping[str, Any]) -> None:
        """Wait until each node of a round serves the present model: its gateway is ready then.

        A node alone has done so when :meth:`ready` returns.
        """
        nodes = nodes_of(view)
        if len(nodes) == 1:
            return
        path = f"/v1/jobs/{self.name}/model?version={view['version']}"
        deadline = time.monotonic() + WAIT_SECONDS
        for node in sorted(nodes):
            with contextlib.closing(HttpClient(view["upload"][node], self.tokens["c0"])) as http:
                while http.request("GET", path, headers={"Range": "bytes=0-7"}).status == 503:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{node} did not get {self.name}'s model")
                    time.sleep(0.02)  # a gateway that just began to serve a job tells nobody

    def wait_for_version(self, version: int) -> float:
        """Return when (monotonic seconds) a GET was answered with model ``version``.

        It waits at the gateway, as a reader who wants the model does.
        """
        path = f"/v1/jobs/{self.name}/model?version={version}&wait={PARK_SECONDS:.0f}"
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            answer = self.http.request("GET", path, headers={"Range": "bytes=0-7"})
            if answer.status in (200, 206):
                return time.monotonic()
            time.sleep(0.01)  # 503: a gateway that just began to serve the job
        raise TimeoutError(f"model version {version} was not readable within {WAIT_SECONDS} s")

    def check(self, sent: list[Sent]) -> None:
        """Raise unless every upload was accepted."""
        bad = [s for s in sent if s.status != 202]
        if bad:
            raise RuntimeError(f"{len(bad)} uploads were refused, first: {bad[0].answer[-400:]!r}")

    def update_sealed(self, sent: Sent) -> float:
        """Return when (monotonic seconds) the one update sent since ``sent`` began was sealed."""
        rows = self.platform.admin().slots(self.name, int(sent.started * 1e9))
        (sealed,) = (r.sealed_ns for r in rows if r.kind is SlotKind.UPDATE)
        return sealed / 1e9

    def status(self) -> dict[str, Any]:
        """Return the job's progress."""
        status: dict[str, Any] = (
            Access(None, None).client(self.name).json("GET", f"/v1/jobs/{self.name}")
        )
        return status

    def history(self) -> list[dict[str, Any]]:
        """Return the committed rounds."""
        client = Access(None, None).client(self.name)
        rounds: list[dict[str, Any]] = client.json("GET", f"/v1/jobs/{self.name}/history")["rounds"]
        return rounds

    def view(self) -> dict[str, Any]:
        """Return what gateways and the controller are told of the job."""
        return self._view_in(self.platform.watched())

    def _view_in(self, told: dict[str, Any]) -> dict[str, Any]:
        view: dict[str, Any] = next(j for j in told["jobs"] if j["job"] == self.name)
        return view

    def stop(self) -> None:
        """Stop the job."""
        Access(None, None).client(self.name).json("POST", f"/v1/jobs/{self.name}/stop")
        self.http.close()


def nodes_of(view: Mapping[str, Any]) -> set[str]:
    """Return the nodes of a round's plan."""
    return {role["node"] for role in view["plan"]["roles"]}


def dump(value: Any) -> str:
    """Return compact JSON for a note."""
    return json.dumps(value, separators=(",", ":"))
