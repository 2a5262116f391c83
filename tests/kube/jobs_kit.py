"""FederatedJobs on a real API server: a coordinator process, an operator, and their objects.

The coordinator is the one that is deployed (gunicorn, SQLite), without a data plane: jobs
start, and their rounds are planned by whoever plays the controller.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from safetensors.numpy import save

from controller.clients import errors
from controller.clients.api import Cluster, Object
from controller.clients.kinds import EVENT, FEDERATED_JOB, NAMESPACE, SECRET, Kind
from controller.coordinator import Coordinator as Watcher
from controller.jobwriter import StatusWriter
from controller.operator import Operator
from controller.submission import Submission
from lifl.auth import mint_platform_token
from lifl.client.http import HttpClient
from lifl.errors import LiflError, Unavailable
from lifl.topology import Level, Plan, Role, Timing

REPO = Path(__file__).resolve().parents[2]
CRD = Kind(
    "apiextensions.k8s.io/v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
)
CRD_FILE = REPO / "deploy/crd/federatedjobs.lifl.dev.yaml"
EXAMPLE: Object = yaml.safe_load((REPO / "examples/digits/job.yaml").read_text())
MODEL = save({"w": np.zeros(1000, np.float32)})
SECRET_KEY = "5a" * 32
PATIENCE = 40.0
T = TypeVar("T")
_numbers = itertools.count(1)


def until(ask: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """Return the first answer that is neither None nor False."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = found = ask()
        except (LiflError, KeyError) as e:
            last = e
        else:
            if found is not None and found is not False:
                return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}; last: {last!r}")


def install(cluster: Cluster) -> None:
    """Have the API server know FederatedJobs."""
    body = yaml.safe_load(CRD_FILE.read_text())
    with contextlib.suppress(errors.Exists):
        cluster.create(CRD, body)
    until(lambda: cluster.serves(FEDERATED_JOB), "the kind to be served")

    def accepted() -> bool:
        found = cluster.get(CRD, body["metadata"]["name"])["status"]["conditions"]
        states = {c["type"]: c["status"] for c in found}
        assert states.get("NonStructuralSchema", "False") == "False", found
        return states.get("Established") == "True"

    until(accepted, "the kind to be established")


def new_namespace(cluster: Cluster) -> str:
    """Make a namespace of the test's own; nobody would clear it, so it stays."""
    name = f"jobs-{os.getpid()}-{next(_numbers)}"
    cluster.create(NAMESPACE, {"metadata": {"name": name}})
    return name


class Coordinator:
    """The coordinator's process; the test is its gateway and its controller."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = HttpClient(self.url, mint_platform_token(bytes.fromhex(SECRET_KEY), "test"))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPO),
            "OPENBLAS_NUM_THREADS": "1",
            "LIFL_HOME": str(self.home),
            "LIFL_HOST": "127.0.0.1",
            "LIFL_AGENT_SOCKET": str(self.home / "nobody.sock"),
            "LIFL_PLATFORM_SECRET": SECRET_KEY,
            "LIFL_NAME": "coordinator",
            "PORT": str(self.port),
        }
        argv = ["gunicorn", "-c", "python:functions.coordinator.gunicorn_conf"]
        with (self.home / "coordinator.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *argv, "functions.coordinator.app:app"],
                env=env,
                cwd="/",
                stdout=log,
                stderr=log,
            )
        until(lambda: self.http.request("GET", "/readyz").status == 200, "the coordinator")

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.stop()
        self.http.close()

    def jobs(self) -> dict[str, dict[str, Any]]:
        return {j["job"]: j for j in self.http.json("GET", "/v1/jobs")["jobs"]}

    def view(self, job: str) -> dict[str, Any]:
        views = self.http.json("GET", "/internal/v1/watch")["jobs"]
        return next(v for v in views if v["job"] == job)

    def put_model(self, job: str) -> None:
        answer = self.http.request("PUT", f"/v1/jobs/{job}/model", body=MODEL)
        assert answer.status == 201, answer.data

    def plan(self, job: str, nodes: int = 2) -> None:
        """Open the round, as the controller does: a top, and two leaves on each node."""
        view = self.view(job)
        top = Role("top", "n0", Level.TOP, 2 * nodes)
        leaves = [
            Role(f"leaf-{n}-{i}", f"n{n}", Level.LEAF, 3, "top")
            for n in range(nodes)
            for i in (0, 1)
        ]
        plan = Plan(job, view["assignment"], 1, Timing.EAGER, (top, *leaves))
        body = {"plan": plan.to_json(), "round": view["round"]}
        self.http.json("PUT", f"/internal/v1/jobs/{job}/plan", body)

    def update(self, job: str, client: str) -> None:
        """Have a client's update counted."""
        view = self.view(job)
        ask = {
            "job": job,
            "round": view["round"],
            "client": client,
            "node": "n0",
            "num_samples": 1,
            "nbytes": 10,
            "assignment": view["assignment"],
            "slot": int(client.strip("c")),
            "generation": 1,
            "digest": client,
        }
        self.http.json("POST", "/internal/v1/updates", ask)

    def log(self) -> str:
        return (self.home / "coordinator.log").read_text()


class Service:
    """The operator with what it needs, as the controller runs it."""

    def __init__(self, cluster: Cluster, url: str, secret: str, namespace: str) -> None:
        key = bytes.fromhex(secret)
        self.submission = Submission(cluster, url, key, gateway="http://gateway.example")
        self.writer = StatusWriter(cluster, self.submission)
        self.watcher = Watcher(url, key, self._told)
        self.operator = Operator(cluster, self.submission, self.writer, namespaces=[namespace])
        self.writer.start()
        self.operator.start()
        self.watcher.start()
        assert self.operator.wait(PATIENCE)

    def _told(self) -> None:
        world = self.watcher.world()
        if world is not None:
            self.writer.told(world)

    def stop(self) -> None:
        self.operator.stop()
        assert not self.operator.alive
        self.writer.stop()
        if self.watcher is not None:
            self.watcher.close()
        self.submission.close()


class Rig:
    """A namespace of its own, with an operator that serves it."""

    def __init__(self, cluster: Cluster, url: str, secret: str, client: Cluster) -> None:
        self.cluster = cluster
        self.client = client
        self.url = url
        self.secret = secret
        self.namespace = new_namespace(cluster)
        self.service: Service | None = None
        self.start()

    def start(self) -> None:
        self.service = Service(self.client, self.url, self.secret, self.namespace)

    def stop(self) -> None:
        if self.service is not None:
            self.service.stop()
            self.service = None

    def create(self, name: str, **spec: Any) -> Object:
        """Make the example's job under another name, with these members of its spec."""
        wanted = {k: v for k, v in {**EXAMPLE["spec"], **spec}.items() if v is not ...}
        body = {"metadata": {"name": name}, "spec": wanted}
        return self.cluster.create(FEDERATED_JOB, body, self.namespace)

    def get(self, name: str) -> Object:
        return self.cluster.get(FEDERATED_JOB, name, self.namespace)

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.get(name).get("status") or {})

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        found = self.status(name).get("conditions") or ()
        return next((dict(c) for c in found if c["type"] == kind), {})

    def wait_phase(self, name: str, phase: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            now = self.status(name)
            return now if now.get("phase") == phase else None

        return until(reached, f"{name} to be {phase}, now {self.status(name)}")

    def wait_condition(self, name: str, kind: str, reason: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            now = self.condition(name, kind)
            return now if now.get("reason") == reason else None

        return until(reached, f"{name}: {kind} because of {reason}")

    def key(self, name: str) -> Object | None:
        return self.cluster.find(SECRET, f"{name}-key", self.namespace)

    def delete(self, name: str) -> None:
        self.cluster.delete(FEDERATED_JOB, name, self.namespace)

    def wait_gone(self, name: str) -> None:
        until(
            lambda: self.cluster.find(FEDERATED_JOB, name, self.namespace) is None,
            f"{name} to be gone",
        )

    def events(self, name: str) -> list[tuple[str, str, int]]:
        """Return (reason, type, count) of the events at a job, oldest first."""
        found, _ = self.cluster.list(
            EVENT,
            self.namespace,
            fields=f"involvedObject.name={name},involvedObject.kind=FederatedJob",
        )
        found.sort(key=lambda e: int(e["metadata"]["resourceVersion"]))
        return [(e["reason"], e["type"], e["count"]) for e in found]

    def table(self) -> tuple[list[str], dict[str, list[Any]]]:
        """Return what `kubectl get` prints: the columns, and the rows by name."""
        path = FEDERATED_JOB.path("", self.namespace)
        response = self.cluster._client.rest_client.pool_manager.request(
            "GET",
            self.cluster.url + path,
            headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"},
        )
        table = json.loads(response.data)
        shown = [i for i, c in enumerate(table["columnDefinitions"]) if not c["priority"]]
        columns = [table["columnDefinitions"][i]["name"] for i in shown]
        rows = [[row["cells"][i] for i in shown] for row in table["rows"]]
        return columns, {row[0]: row for row in rows}


@contextlib.contextmanager
def rig(
    cluster: Cluster, url: str, secret: str = SECRET_KEY, *, client: Cluster | None = None
) -> Iterator[Rig]:
    """Run an operator for one test, which speaks to the API server by ``client``."""
    made = Rig(cluster, url, secret, client or cluster)
    try:
        yield made
    finally:
        made.stop()


def refusal(do: Callable[[], object]) -> str:
    """Return the words with which the API server refuses."""
    try:
        do()
    except errors.ApiError as e:
        return str(e)
    except Unavailable as e:
        raise AssertionError("the API server does not answer") from e
    raise AssertionError("it was not refused")
