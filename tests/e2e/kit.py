"""A real local platform for the end-to-end tests, jobs of a few kB on it, and clients by raw HTTP.

Why: faults are only shown to be survived on the processes that users run. The model makes
counting visible: each client has a position of its own in the tensor ``mark`` and sends a 1
there, so that after a round ``mark`` times Σ n is n for each update that counted once, 2 n for
one counted twice and 0 for one forgotten. ``whole`` holds small whole numbers: where Σ n is a
power of two, as for the first 2 to 15 clients, a sum that is divided once is exact in float32 in
any order, so that runs can be compared bit for bit. ``w`` holds random numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from lifl import naming
from lifl.auth import mint_client_token, mint_platform_token
from lifl.cli.access import Access
from lifl.cli.jobs import submit_job
from lifl.client import FederatedClient, Retry
from lifl.client.http import HttpClient, HttpError
from lifl.dataplane.admin import AgentAdmin
from lifl.errors import Unavailable
from lifl.platform import running
from lifl.platform.paths import Paths
from lifl.platform.processes import ProcessId
from lifl.store import PoolUsage
from lifl.update import Schema, iter_document, parse_header, views

Arrays = dict[str, np.ndarray[Any, Any]]
T = TypeVar("T")

UP_SECONDS = 60.0
PATIENCE = 30.0
"""How long anything that must happen may take."""
MARKS = 64
DENSE = 960


def free_port() -> int:
    """Return a port that is free, like the nine after it and the one a hundred above.

    It is below those that the kernel gives to clients, so that none of them takes it meanwhile.
    """
    for _ in range(100):
        port = random.randrange(10_000, 32_000)
        with contextlib.ExitStack() as held:
            try:
                for other in (*range(port, port + 10), port + 100):
                    sock = held.enter_context(socket.socket())
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind(("127.0.0.1", other))
            except OSError:
                continue
            return port
    raise AssertionError("no free ports")


def freeze(pid: int) -> None:
    """Stop a process and return once none of its threads runs.

    The signal is one thread's to take; until it has, the others go on.
    """
    os.kill(pid, signal.SIGSTOP)

    def states() -> set[str]:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return {(t / "stat").read_text().rpartition(")")[2].split()[0] for t in tasks}

    wait_for(lambda: states() == {"T"}, f"process {pid} to stop")


def wait_for(probe: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """Return the first result of ``probe`` that is neither None nor False.

    For what has no event to wait on; a platform that does not answer is asked again.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = found = probe()
            if found is not None and found is not False:
                return found
        except Unavailable as e:
            last = e
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}; last: {last!r}")


# -- the platform -------------------------------------------------------------------------


@dataclass
class Platform:
    """A running platform and the means to look at it and to hurt it."""

    paths: Paths
    access: Access

    @property
    def url(self) -> str:
        """The URL of node-0's gateway."""
        return self.access.url

    @property
    def state(self) -> dict[str, Any]:
        """What ``platform.json`` says now."""
        return running.need(self.paths)

    def gateway_url(self, node: int) -> str:
        """Return the URL of a node's gateway."""
        return str(self.state["gateways"][f"node-{node}"])

    def internal(self) -> HttpClient:
        """Return a client of the coordinator's internal API."""
        secret = bytes.fromhex(self.paths.secret())
        return HttpClient(self.state["coordinator_url"], mint_platform_token(secret, "test"))

    @contextlib.contextmanager
    def admin(self, node: int = 0) -> Iterator[AgentAdmin]:
        """Connect to a node's agent."""
        admin = AgentAdmin(naming.admin_socket(self.paths.run, f"node-{node}"))
        try:
            yield admin
        finally:
            admin.close()

    # -- processes --

    def process(self, name: str) -> ProcessId:
        """Return a standing process (``gateway-0``, ``coordinator`` ...), once it runs."""

        def running_now() -> ProcessId | None:
            row = self.state["processes"][name]
            return ProcessId.from_json(row) if row["pid"] is not None else None

        return wait_for(running_now, f"{name} to run")

    def aggregators(self, job: str | None = None) -> dict[str, ProcessId]:
        """Return the aggregators that run, by name."""
        rows = running.aggregators(self.paths)
        return {r["name"]: ProcessId.from_json(r) for r in rows if job in (None, r["job"])}

    def kill(self, name: str) -> ProcessId:
        """SIGKILL a standing process with its workers; return who it was."""
        victim = self.process(name)
        kill_tree(victim)
        return victim

    def back(self, victim: ProcessId, name: str) -> ProcessId:
        """Wait until a killed standing process has a successor that serves; return that."""

        def successor() -> ProcessId | None:
            now = self.process(name)
            return now if now != victim and now.alive() and self.serves(name) else None

        return wait_for(successor, f"another {name}")

    def arm(self, point: str, instance: str | None = None) -> Path:
        """Have the next process that reaches ``point`` kill itself; return what vanishes then.

        With ``instance`` only the process of that name.
        """
        file = self.paths.home / "crash" / (point if instance is None else f"{point}@{instance}")
        file.touch()
        return file

    @contextlib.contextmanager
    def nothing_restarted(self) -> Iterator[None]:
        """Let the supervisor sleep, so that who is killed stays away."""
        supervisor = psutil.Process(self.state["pid"])
        supervisor.suspend()
        try:
            yield
        finally:
            supervisor.resume()

    @contextlib.contextmanager
    def without(self, node: int) -> Iterator[None]:
        """Kill everything on a node and keep it down; afterwards wait until it is back."""
        name = f"node-{node}"
        victims = {kind: self.process(f"{kind}-{node}") for kind in ("agent", "gateway")}
        with self.nothing_restarted():
            for victim in victims.values():
                kill_tree(victim)
            for row in running.aggregators(self.paths):
                if row["node"] == name:
                    kill_tree(ProcessId.from_json(row))
            yield
        for kind, victim in victims.items():
            self.back(victim, f"{kind}-{node}")
        wait_for(lambda: name in self.nodes(), f"the coordinator to hear of {name}")

    def nodes(self) -> set[str]:
        """Return the nodes that the coordinator hears of."""
        answer = self.internal().json("GET", "/internal/v1/watch")
        return {n["node"] for n in answer["nodes"]}

    def serves(self, name: str) -> bool:
        """Say whether a standing process answers."""
        kind, _, number = name.partition("-")
        if kind == "agent":
            with self.admin(int(number)) as admin:
                return bool(admin.info())
        if kind == "gateway":
            return HttpClient(self.gateway_url(int(number))).request("GET", "/readyz").status == 200
        if kind == "coordinator":
            url = self.state["coordinator_url"]
            return HttpClient(url).request("GET", "/readyz").status == 200
        return True

    def processes(self) -> list[psutil.Process]:
        """Return every process of the platform, the supervisor first."""
        supervisor = psutil.Process(self.state["pid"])
        return [supervisor, *supervisor.children(recursive=True)]

    # -- figures --

    def usage(self, job: str, node: int = 0) -> PoolUsage:
        """Return how a job's slots on a node are used."""
        with self.admin(node) as admin:
            return admin.pools()[job]

    def events(self, node: int = 0) -> dict[str, int]:
        """Return what a node's agent counted since its start."""
        with self.admin(node) as admin:
            return dict(admin.counters()["events"])

    def workers(self, job: str, node: int = 0) -> dict[str, int]:
        """Return the worker processes of a job's registered aggregators, by name."""
        with self.admin(node) as admin:
            rows = admin.endpoints()
        return {
            r["name"]: r["pid"] for r in rows if (r["domain"], r["kind"]) == (job, "aggregator")
        }

    def metric(self, url: str, name: str, **labels: str) -> float:
        """Return the sum of a Prometheus metric's samples that have ``labels``."""
        text = HttpClient(url).request("GET", "/metrics").data.decode()
        return sum(_samples(text, name, labels))

    def log(self, name: str) -> str:
        """Return a process's log."""
        return self.paths.log(name).read_text(errors="replace")

    def logs(self) -> str:
        """Return all logs, for a failure's message."""
        tails = (f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.paths.logs.iterdir()))
        return "\n".join(tails)

    def submit(self, name: str, **options: Any) -> Job:
        """Submit a job; see :class:`Job` for the options."""
        return Job.submit(self, name, **options)


def kill_tree(victim: ProcessId) -> None:
    """SIGKILL a process and its workers, without warning and all at once.

    Aggregators, which have sessions of their own, outlive the controller.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(victim.pid)
        workers = process.children(recursive=True)
        family = [process, *(w for w in workers if os.getsid(w.pid) == os.getsid(victim.pid))]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGSTOP)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def _samples(text: str, name: str, labels: Mapping[str, str]) -> Iterator[float]:
    wanted = {f'{k}="{v}"' for k, v in labels.items()}
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        metric, _, rest = head.partition("{")
        if metric == name and wanted <= set(rest.rstrip("}").split(",")):
            yield float(value)


@contextlib.contextmanager
def platform(
    *,
    nodes: int = 1,
    dataplane: str = "ebpf",
    arguments: tuple[str, ...] = (),
    python: Path | None = None,
    **env: str,
) -> Iterator[Platform]:
    """Run a platform in a directory of its own, on free ports; remove it afterwards.

    ``env`` are LIFL_* settings of all its processes; ``python`` is the program that
    runs it, this interpreter by default.
    """
    home = Path(tempfile.mkdtemp(prefix="lifl-e2e-", dir="/tmp"))
    home.chmod(0o711)
    crash = home / "crash"
    crash.mkdir()
    crash.chmod(0o777)  # whoever dies removes a file
    before = dict(os.environ)
    told = {"LIFL_HOME": str(home), "LIFL_CRASH_DIR": str(crash), "LIFL_NODE_LEAVES": "16"}
    os.environ.update(told | env)  # trees as on machines with more processors than this one
    paths = Paths(home)
    up = ["--nodes", str(nodes), "--dataplane", dataplane, "--port", str(free_port()), *arguments]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(python or sys.executable))
            running.detach(paths, up, UP_SECONDS)
        yield Platform(paths, Access(None, None))
    finally:
        os.environ.clear()
        os.environ.update(before)
        running.down(paths)
        shutil.rmtree(home, ignore_errors=True)


# -- what clients send ----------------------------------------------------------------------


def zeros() -> Arrays:
    """Return the initial model."""
    return {
        "mark": np.zeros(MARKS, np.float32),
        "whole": np.zeros(DENSE, np.float32),
        "w": np.zeros(DENSE, np.float32),
        "steps": np.zeros(1, np.int64),
    }


def update_of(client: int, round_number: int = 1) -> Arrays:
    """Return client *i*'s update: its mark, random values, its own step count.

    ``mark`` and ``whole`` are the same in every round.
    """
    arrays = zeros()
    arrays["mark"][client] = 1.0
    rng = np.random.default_rng([client, round_number])
    arrays["w"][:] = rng.standard_normal(DENSE)
    arrays["whole"][:] = np.random.default_rng(client).integers(-999, 1000, DENSE)
    arrays["steps"][0] = 100 * round_number + client
    return arrays


def samples_of(client: int) -> int:
    """Return client *i*'s sample count: 1, 1, 2, 4, 8 ... so that the first k have 2^(k-1)."""
    return 1 << max(0, min(client, 14) - 1)


SCHEMA = Schema.of(zeros())


def document(arrays: Arrays) -> bytes:
    """Return a safetensors document."""
    return b"".join(iter_document(arrays, Schema.of(arrays)))


class Answer(NamedTuple):
    """An HTTP answer; ``json`` is {} if the body is no JSON object."""

    status: int
    json: dict[str, Any]
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The problem document's code."""
        return str(self.json.get("code", ""))


# -- a job ----------------------------------------------------------------------------------


@dataclass
class Job:
    """A submitted job and its clients ``c0`` ... by raw HTTP."""

    platform: Platform
    name: str
    key: bytes
    clients: int
    tokens: dict[str, str] = field(default_factory=dict)

    @classmethod
    def submit(
        cls,
        on: Platform,
        name: str,
        *,
        clients: int,
        rounds: int = 1000,
        fan_in: int | None = 2,
        timing: str = "eager",
        slots: int | None = None,
        model: Arrays | None = None,
        deadline: float | None = None,
        **selection: Any,
    ) -> Job:
        """Submit a job for ``clients`` clients that all must take part.

        ``selection`` overrides members of the job file's ``clients``.
        """
        names = [f"c{i}" for i in range(clients)]
        spec: dict[str, Any] = {
            "rounds": rounds,
            "clients": {"perRound": clients, "names": names, "selection": "random"} | selection,
            "aggregation": {"timing": timing} | ({} if fan_in is None else {"fanIn": fan_in}),
        }
        if slots is not None:
            spec["pool"] = {"slots": slots}
        if deadline is not None:
            spec["deadlineSeconds"] = deadline
        body = {
            "apiVersion": "lifl.dev/v1alpha1",
            "kind": "FederatedJob",
            "metadata": {"name": name},
            "spec": spec,
        }
        submit_job(on.access, body, document(model if model is not None else zeros()))
        return cls(on, name, on.access.key(name), clients)

    def token(self, client: str) -> str:
        """Return a client's token."""
        if client not in self.tokens:
            self.tokens[client] = mint_client_token(self.key, self.name, client)
        return self.tokens[client]

    # -- looking --

    def current(
        self, client: int = 0, *, after: int | None = None, wait: float = 0, node: int = 0
    ) -> dict[str, Any]:
        """Ask once what a client's round is."""
        query = f"client=c{client}&wait={wait:g}" + ("" if after is None else f"&after={after}")
        http = HttpClient(self.platform.gateway_url(node), self.token(f"c{client}"))
        try:
            answer: dict[str, Any] = http.json(
                "GET", f"/v1/jobs/{self.name}/rounds/current?{query}", timeout=wait + 10
            )
            return answer
        finally:
            http.close()

    def open_round(self, after: int = 0, client: int = 0) -> dict[str, Any]:
        """Wait by long poll until a round later than ``after`` is open; return the answer."""
        deadline = time.monotonic() + PATIENCE
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"no round after {after} opened\n{self.platform.logs()}"
            try:
                answer = self.current(client, after=after, wait=min(left, 5))
            except Unavailable:
                time.sleep(0.05)
                continue
            except HttpError as e:
                assert e.status == 404, e  # a gateway hears of a new job a moment later
                time.sleep(0.05)
                continue
            if answer["state"] == "open" and answer["round"] > after:
                return answer

    def wait_over(self) -> str:
        """Wait by long poll until the job is over; return how it ended."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(Unavailable):
                answer = self.current(after=1 << 30, wait=5)
                if answer["state"] in ("done", "stopped", "failed"):
                    return str(answer["state"])
        raise AssertionError(f"{self.name} did not end: {self.status()}\n{self.platform.logs()}")

    def status(self) -> dict[str, Any]:
        """Return the job's progress as people see it."""
        answer: dict[str, Any] = self.platform.access.client(self.name).json(
            "GET", f"/v1/jobs/{self.name}"
        )
        return answer

    def view(self) -> dict[str, Any]:
        """Return the job as gateways and the controller see it."""
        views = self.platform.internal().json("GET", "/internal/v1/watch")["jobs"]
        return next(v for v in views if v["job"] == self.name)

    def plan(self) -> dict[str, Any]:
        """Return the plan of the present round, once there is one."""
        return wait_for(lambda: self.view()["plan"], "a plan")

    def history(self) -> list[dict[str, Any]]:
        """Return the committed rounds."""
        rounds: list[dict[str, Any]] = self.platform.access.client(self.name).json(
            "GET", f"/v1/jobs/{self.name}/history"
        )["rounds"]
        return rounds

    def model(self, version: int | None = None, node: int = 0) -> Arrays:
        """Return a model version; raises Unavailable where the gateway says to try again."""
        query = "" if version is None else f"?version={version}"
        http = HttpClient(self.platform.gateway_url(node), self.token("reader"))
        answer = http.request("GET", f"/v1/jobs/{self.name}/model{query}")
        http.close()
        if answer.status == 503:  # it was just started anew
            raise Unavailable(str(answer.data))
        assert answer.status == 200, answer.data
        raw = bytes(answer.data)
        return {k: v.copy() for k, v in views(raw, parse_header(raw, len(raw))).items()}

    def stop(self) -> None:
        """End the job, so that its clients go home."""
        self.platform.access.client(self.name).json("POST", f"/v1/jobs/{self.name}/stop")

    # -- posting --

    def request(
        self,
        client: int,
        round_number: int,
        body: bytes,
        *,
        url: str | None = None,
        samples: int | str | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Answer:
        """POST ``body`` as a client's update once; headers with value None are left out.

        Raises
        ------
        Unavailable
            if there was no answer.
        """
        base = urlsplit(url or self.platform.url)
        sent: dict[str, str | None] = {
            "Content-Type": naming.MEDIA_SAFETENSORS,
            "Authorization": f"Bearer {self.token(f'c{client}')}",
            naming.HEADER_CLIENT: f"c{client}",
            naming.HEADER_NUM_SAMPLES: str(samples_of(client) if samples is None else samples),
            **(headers or {}),
        }
        http = HttpClient(f"{base.scheme}://{base.netloc}")
        try:
            answer = http.request(
                "POST",
                f"/v1/jobs/{self.name}/rounds/{round_number}/updates",
                body=body,
                headers={k: v for k, v in sent.items() if v is not None},
            )
            return answer_of(answer.status, dict(answer.headers), answer.data)
        finally:
            http.close()

    def post(self, client: int, round_number: int, **options: Any) -> Answer:
        """POST client *i*'s update of a round once; see :meth:`request`."""
        return self.request(
            client, round_number, document(update_of(client, round_number)), **options
        )

    def deliver(self, client: int, round_number: int, **options: Any) -> Answer:
        """POST client *i*'s update until it is answered 202; anything final else is a failure."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self.post(client, round_number, **options)
            except Unavailable as e:
                answer = Answer(0, {"detail": str(e)}, {}, b"")
            if answer.status == 202:
                return answer
            retried = answer.status in (0, 502, 503) and time.monotonic() < deadline
            assert retried, f"{answer.status} {answer.json}\n{self.platform.logs()}"
            time.sleep(0.05)

    def placed(self, client: int) -> str:
        """Ask where a client's update goes: again, as clients do, while the gateway is away."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                url: str = self.current(client)["upload_url"]
                return url
            except Unavailable:
                assert time.monotonic() < deadline, self.platform.logs()
                time.sleep(0.05)

    def deliver_all(self, round_number: int, clients: range | None = None) -> None:
        """Deliver all clients' updates of a round at once, each to the node placed for it."""
        everybody = range(self.clients) if clients is None else clients

        def one(client: int) -> None:
            self.deliver(client, round_number, url=self.placed(client))

        with ThreadPoolExecutor(max(1, len(everybody))) as threads:
            list(threads.map(one, everybody))

    def raw(self, *, url: str | None = None) -> socket.socket:
        """Return a connection to a gateway, for requests that no library would send."""
        base = urlsplit(url or self.platform.url)
        return socket.create_connection((base.hostname, base.port or 80), timeout=PATIENCE)

    def head(
        self, client: int, round_number: int, length: int | None, *extra: str, samples: str = "1"
    ) -> bytes:
        """Return the head of a raw upload; ``length`` None leaves Content-Length out."""
        lines = [
            f"POST /v1/jobs/{self.name}/rounds/{round_number}/updates HTTP/1.1",
            "Host: gateway",
            f"Content-Type: {naming.MEDIA_SAFETENSORS}",
            f"Authorization: Bearer {self.token(f'c{client}')}",
            f"{naming.HEADER_CLIENT}: c{client}",
            f"{naming.HEADER_NUM_SAMPLES}: {samples}",
            *([] if length is None else [f"Content-Length: {length}"]),
            *extra,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def sdk(self, client: int, **options: Any) -> FederatedClient:
        """Return a client of the SDK."""
        retry = options.pop("retry", Retry(patience=PATIENCE))
        return FederatedClient(
            self.platform.url,
            job=self.name,
            client=f"c{client}",
            token=self.token(f"c{client}"),
            retry=retry,
            **options,
        )

    # -- judging --

    def check(self, round_number: int, clients: range | list[int] | None = None) -> Arrays:
        """Wait for a round's model and hold it against the mean of exactly these clients' updates.

        A double or missing count is seen exactly in ``mark``; ``w`` is held
        against a float64 mean within float32's summation error.
        """
        everybody = list(range(self.clients) if clients is None else clients)
        model = self.committed(round_number)
        total = sum(samples_of(c) for c in everybody)
        counted = np.rint(model["mark"].astype(np.float64) * total).astype(int)
        want = np.zeros(MARKS, int)
        for c in everybody:
            want[c] = samples_of(c)
        where = {
            f"c{i}": f"{counted[i] / samples_of(int(i)):g} times"
            for i in np.flatnonzero(counted != want)
        }
        assert not where, f"round {round_number} of {self.name}: counted {where}"
        expected = mean_of(everybody, round_number)
        np.testing.assert_allclose(model["mark"], expected["mark"], rtol=1e-6)
        np.testing.assert_allclose(model["whole"], expected["whole"], rtol=0, atol=5e-4)
        np.testing.assert_allclose(model["w"], expected["w"], rtol=0, atol=2e-6)
        np.testing.assert_array_equal(model["steps"], expected["steps"])
        return model

    def committed(self, round_number: int) -> Arrays:
        """Wait until round ``round_number`` is committed and return the model of then."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if self.current(after=round_number, wait=1)["version"] >= round_number:
                    return self.model(round_number)
            except Unavailable:
                time.sleep(0.05)
        raise AssertionError(
            f"round {round_number} of {self.name} was not committed: {self.status()}\n"
            f"{self.platform.logs()}"
        )


def mean_of(clients: list[int], round_number: int) -> Arrays:
    """Return the weighted mean of these clients' updates, computed apart from the product."""
    updates = [update_of(c, round_number) for c in clients]
    n = np.array([samples_of(c) for c in clients], np.float64)
    return {
        name: np.average([u[name].astype(np.float64) for u in updates], axis=0, weights=n)
        for name in ("mark", "whole", "w")
    } | {"steps": np.max([u["steps"] for u in updates], axis=0)}


def answer_of(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Return an answer with its JSON read."""
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = {}
    return Answer(status, parsed if isinstance(parsed, dict) else {}, dict(headers), body)


def read_answer(sock: socket.socket) -> Answer:
    """Read one HTTP answer from a raw connection; status 0 if it ends without one."""
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            piece = b""
        if not piece:
            return Answer(0, {}, {}, data)
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {k.strip().lower(): v.strip() for k, _, v in (h.partition(":") for h in lines)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        piece = sock.recv(65536)
        if not piece:
            break
        body += piece
    return answer_of(int(first.split()[1]), headers, body)
