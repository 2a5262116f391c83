"""Jobs on a cluster, and their clients: threads of this machine, outside of the cluster.

Client *i* adds 2**i to every weight. The first one's samples fill the sum of all up to a power
of two, so the mean is exact in float32 in any order of summing, and tells an update that is
missing or counted twice.
"""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save

from lifl.auth import mint_client_token, mint_submitter_token
from lifl.client import FederatedClient, HttpClient
from lifl.errors import LiflError
from tests.cluster.install import Installation, pod_ready
from tests.cluster.kube import kubectl, query, until

OVER = ("Complete", "Stopped", "Failed", "Refused")
SMALL = 240
_numbers = itertools.count(int(time.time()) % 100_000 * 100)


class Entry:
    """A way into the cluster: the URL that clients ask, and where they connect to for it."""

    def __init__(self, url: str, ingress: str = "") -> None:
        self.url = url
        self.ingress = ingress


def entries(on: Installation) -> list[Entry]:
    """Return the ways in, as users of this platform have them."""
    s = on.settings
    if on.platform == "knative":
        ingress = s.ingress or _kourier()
        return [Entry(url, ingress) for url in sorted(on.knative_gateways())]
    if on.platform == "kubernetes":
        if s.gateway:
            return [Entry(s.gateway)]
        hosts = {p["status"]["hostIP"] for p in on.pods("gateway") if pod_ready(p)}
        return [Entry(f"http://{host}:8080") for host in sorted(hosts)]
    if s.openfaas:
        return [Entry(f"{s.openfaas}/function/lifl-gateway")]
    return [
        Entry(f"http://{p['status']['podIP']}:8080") for p in on.pods("gateway") if pod_ready(p)
    ]


def _kourier() -> str:
    """Return where Kourier is reached from outside."""
    service = query("-n", "kourier-system", "get", "service", "kourier")
    for found in service["status"].get("loadBalancer", {}).get("ingress", ()):
        return f"{found.get('ip') or found['hostname']}:80"
    (port,) = (p["nodePort"] for p in service["spec"]["ports"] if p["port"] == 80)
    node = query("get", "nodes")["items"][0]
    (host,) = (a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    return f"{host}:{port}"


class Job:
    """A FederatedJob and its clients."""

    def __init__(
        self,
        on: Installation,
        name: str,
        *,
        clients: int,
        rounds: int,
        elements: int = SMALL,
        spec: dict[str, Any] | None = None,
        ways: list[Entry] | None = None,
    ) -> None:
        self.name = f"{name}-{next(_numbers)}"
        self.clients, self.rounds = clients, rounds
        self.models: dict[int, set[float]] = {}
        self.accepted: dict[int, list[float]] = {}
        """Unix times at which uploads of a round were acknowledged."""
        self.upload_seconds: list[float] = []
        self.hold = threading.Event()
        """In round ``held`` clients wait for it before they submit."""
        self.held = 0
        self.early = 0
        """So many clients do not wait for it."""
        self.pace = 0.0
        """Seconds that clients train for."""
        self._on, self._elements = on, elements
        self._spec = {
            "rounds": rounds,
            "clients": {"perRound": clients, "minimum": clients, "selection": "all"},
            "aggregation": {"fanIn": 2},
            "pool": {"slots": 32},
        } | (spec or {})
        self._ways = ways or entries(on)
        self._key = b""
        self._threads: list[threading.Thread] = []
        self._errors: list[tuple[str, BaseException]] = []

    # -- submitting --

    def submit(self) -> Job:
        """Apply the object; the model is in a ConfigMap if it fits there, else sent."""
        model = save({"whole": np.zeros(self._elements, np.float32)})
        small = self._elements <= 100_000
        if small:
            submit_config(self._on, self.name, model)
            self._spec["model"] = {"configMap": {"name": f"{self.name}-model", "key": "model"}}
        apply_job(self._on, self.name, self._spec)
        self._key = key_of(self._on, self.name)
        if not small:
            http = self.http()
            sent = {"Content-Type": "application/vnd.safetensors"}
            path = f"/v1/jobs/{self.name}/model"
            answer = http.request("PUT", path, body=model, headers=sent, timeout=120.0)
            assert answer.status < 300, answer.data
            http.close()
        until(lambda: has_model(self._on, self.name), "the job to have its model")
        return self

    def http(self) -> HttpClient:
        """Return the submitter's client."""
        way = self._ways[0]
        token = mint_submitter_token(self._key, self.name)
        return HttpClient(way.url, token, ingress=way.ingress, timeout=30.0)

    # -- clients --

    def start(self) -> Job:
        """Start all clients."""
        for i in range(self.clients):
            way = self._ways[i % len(self._ways)]
            thread = threading.Thread(target=self._take_part, args=(i, way), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def samples(self, number: int) -> int:
        """Return how many samples a client says it has."""
        whole = 1 << (self.clients - 1).bit_length()
        return whole - self.clients + 1 if number == 0 else 1

    def step(self) -> float:
        """Return what a round adds to every weight if each update counts once."""
        sums = [(self.samples(i), 2.0**i) for i in range(self.clients)]
        return sum(n * v for n, v in sums) / sum(n for n, _ in sums)

    def _take_part(self, number: int, way: Entry) -> None:
        name = f"c{number}"
        token = mint_client_token(self._key, self.name, name)
        kind = {"job": self.name, "client": name, "token": token, "ingress": way.ingress}
        try:
            with FederatedClient(way.url, **kind) as client:
                for round_ in client.rounds():
                    weights = round_.model()["whole"]
                    self.models.setdefault(round_.number, set()).add(float(weights[0]))
                    mine = {"whole": weights + np.float32(2.0**number)}
                    if round_.number == self.held and number >= self.early:
                        self.hold.wait()
                    time.sleep(self.pace)
                    began = time.monotonic()
                    if round_.submit(mine, num_samples=self.samples(number)).accepted:
                        self.upload_seconds.append(time.monotonic() - began)
                        self.accepted.setdefault(round_.number, []).append(time.time())
        except LiflError as e:
            self._errors.append((name, e))

    # -- the end --

    def finish(self, seconds: float = 180.0) -> Job:
        """Wait for the clients to hear that the job is over, and check every sum."""
        deadline = time.monotonic() + seconds
        for i, thread in enumerate(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"client {i} is not done: {self.about()}"
        assert not self._errors, self._errors
        assert self.models == {r: {(r - 1) * self.step()} for r in range(1, self.rounds + 1)}
        status = until(self.ended, "the status to say Complete")
        assert {c["type"]: c["status"] for c in status["conditions"]}["Complete"] == "True"
        assert status["phase"] == "Complete", status
        assert status["version"] == self.rounds
        for row in self.history():
            assert row["accepted"] == row["aggregated"] == self.clients, row
        return self

    def ended(self) -> dict[str, Any] | None:
        """Return the status if the job is over."""
        status = self.status()
        return status if status.get("completionTime") and status.get("phase") in OVER else None

    def status(self) -> dict[str, Any]:
        """Return the object's status."""
        found = query("-n", self._on.namespace, "get", "fj", self.name)
        status: dict[str, Any] = found.get("status", {})
        return status

    def history(self) -> list[dict[str, Any]]:
        """Return the coordinator's account of each round."""
        http = self.http()
        try:
            rows: list[dict[str, Any]] = http.json("GET", f"/v1/jobs/{self.name}/history")["rounds"]
        finally:
            http.close()
        return rows

    def round_seconds(self) -> list[float]:
        """Return how long each round took, from its plan's wish to the new version."""
        return [row["committed"] - row["opened"] for row in self.history()]

    def about(self) -> str:
        """Return what is known, for a failure's message."""
        return json.dumps([self.status(), {r: len(a) for r, a in self.accepted.items()}])

    def wait_for_round(self, number: int, seconds: float = 90.0) -> None:
        """Wait until a client sees a round."""
        until(lambda: self.models.get(number), f"round {number} of {self.name}", seconds)

    def delete(self) -> None:
        """Delete the object."""
        kubectl("-n", self._on.namespace, "delete", "fj", self.name, "--wait=false")


def submit_config(on: Installation, job: str, model: bytes) -> None:
    """Put a job's initial model into a ConfigMap."""
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{job}-model"},
        "binaryData": {"model": base64.b64encode(model).decode()},
    }
    kubectl("-n", on.namespace, "create", "-f", "-", given=json.dumps(body))


def apply_job(on: Installation, name: str, spec: dict[str, Any]) -> None:
    """Make a FederatedJob."""
    head = {"apiVersion": "lifl.dev/v1alpha1", "kind": "FederatedJob"}
    body = head | {"metadata": {"name": name}, "spec": spec}
    kubectl("-n", on.namespace, "create", "-f", "-", given=json.dumps(body))


def key_of(on: Installation, job: str) -> bytes:
    """Return a job's key from its Secret."""

    def find() -> str:
        secret = query("-n", on.namespace, "get", "secret", f"{job}-key")
        return base64.b64decode(secret["data"]["auth_key"]).decode()

    return bytes.fromhex(until(find, "the job's key"))


def has_model(on: Installation, job: str) -> bool:
    """Whether a job has its initial model."""
    status = query("-n", on.namespace, "get", "fj", job).get("status", {})
    states = {c["type"]: c["status"] for c in status.get("conditions", ())}
    return states.get("ModelReceived") == "True"


def none_left(on: Installation) -> Callable[[], bool]:
    """Return a question: are all aggregators' pods gone, but for the one that OpenFaaS keeps?"""
    least = 1 if on.platform == "openfaas" else 0
    return lambda: len(on.pods()) <= least
