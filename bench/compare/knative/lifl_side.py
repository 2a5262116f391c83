"""LIFL on the same cluster as a side: one FederatedJob on the installation that is there.

Why: a figure of vanilla Knative on a cluster means something beside LIFL's on that cluster, with
the same updates at the same moments. It must not install LIFL (``docs/packaging.md`` says how), nor
change what is installed; its job is its own and goes with it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

import lifl
from bench.clients import Clients, head
from bench.compare import mean
from bench.compare.api import Load, Reference, Round
from bench.compare.knative.kube import ClusterError, Kube, until
from bench.compare.knative.ways import Way, knative_way
from lifl import naming
from lifl.auth import mint_client_token, mint_submitter_token
from lifl.client.http import HttpClient
from lifl.errors import LiflError
from lifl.update import parse_header

JOB_SECONDS = 120.0
ROUNDS = 1_000_000
SPARE_SLOTS = 12
_EVERY = 9
"""Of the 64 places to look at every 9th, so the last too: each is a request."""
POLL_SECONDS = 0.01


class ClusterLifl:
    """An ``api.System`` on the cluster of ``KUBECONFIG``; its CPU is read by ``usage.Meter``."""

    name = "lifl"
    title = "LIFL, cluster"
    block = 0
    stand_ins: Sequence[str] = (
        "clients come by the installation's own way in, without TLS, with tokens; each asks for "
        "its work before the round is timed",
        "a checkpoint on disk is within its rounds (wrongs it)",
    )

    def __init__(
        self,
        load: Load,
        document: bytes,
        *,
        namespace: str = "lifl",
        way: Way | None = None,
        fan_in: int = 2,
        round_seconds: float = 300.0,
        kube: Kube | None = None,
    ) -> None:
        if load.sizes:
            raise ValueError("a job's rounds are of one size: give a load without sizes")
        self.versions: Mapping[str, str] = {"lifl": lifl.__version__}
        self.namespace = namespace
        self._load, self._document, self._way = load, document, way
        self._fan_in, self._seconds = fan_in, round_seconds
        self._kube = kube or Kube()
        self._job = f"compare-{uuid.uuid4().hex[:8]}"
        self._clients_names = [f"c{i}" for i in range(load.clients)]
        self._round = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Submit the job with its model and wait until its first round is open to all."""
        with contextlib.ExitStack() as stack:
            if not self._kube.serves("lifl.dev/v1alpha1"):
                raise ClusterError("LIFL is not installed on this cluster; see docs/packaging.md")
            way = self._way = self._way or knative_way(self._kube, self.namespace)
            self._kube.apply([self._object()])
            stack.callback(self._delete)
            key = self._key()
            submitter = HttpClient(
                way.url, mint_submitter_token(key, self._job), ingress=way.ingress, timeout=60.0
            )
            stack.callback(submitter.close)
            self._submitter = submitter
            self._put_model()
            self._tokens = {c: mint_client_token(key, self._job, c) for c in self._clients_names}
            self._asking = {}
            for client, token in self._tokens.items():
                http = HttpClient(way.url, token, ingress=way.ingress, timeout=60.0)
                stack.callback(http.close)
                self._asking[client] = http
            self._clients = stack.enter_context(Clients(self._load.clients, self._document))
            self._views = self._opened()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Delete the job."""
        self._stack.close()

    def play(self, updates: int | None = None) -> Round:
        """Play one round, with the next one being open at its end; see ``api.System``."""
        if updates not in (None, self._load.clients):
            raise ValueError("a job's rounds are of one size")
        before = {p["metadata"]["uid"] for p in self.pods()}
        requests = [self._request(i, view) for i, view in enumerate(self._views)]
        start = time.monotonic()
        self._clients.start(requests, at=[start + a for a in self._load.arrivals])
        sent = self._clients.wait()
        if bad := [s for s in sent if s.status != 202]:
            raise RuntimeError(f"{len(bad)} updates were refused, first: {bad[0].answer[-400:]!r}")
        end = self._await_version(start + self._seconds)
        self._check()
        pods = self.pods()
        done = Round(
            wall=end - start,
            last_byte=max(s.last_byte for s in sent) - start,
            updates=self._load.clients,
            created=len({p["metadata"]["uid"] for p in pods} - before),
            nodes=len({p["spec"].get("nodeName") for p in pods} - {None}),
            marks={"accepted": max(s.answered for s in sent) - start},
        )
        self._views = self._opened()
        return done

    def references(self) -> Sequence[Reference]:
        """Return nothing: nobody else has published this path."""
        return ()

    def pods(self) -> list[dict[str, Any]]:
        """Return the aggregators' pods."""
        label = f"{naming.LABEL_FUNCTION}=aggregator"
        pods: list[dict[str, Any]] = self._kube.get("-n", self.namespace, "pods", "-l", label)[
            "items"
        ]
        return pods

    # -- the job --

    def _object(self) -> dict[str, Any]:
        clients = self._load.clients
        return {
            "apiVersion": "lifl.dev/v1alpha1",
            "kind": "FederatedJob",
            "metadata": {"name": self._job, "namespace": self.namespace},
            "spec": {
                "rounds": ROUNDS,
                "clients": {"perRound": clients, "minimum": clients, "selection": "all"},
                "strategy": {"name": "fedavg"},
                "update": "weights",
                "aggregation": {"fanIn": self._fan_in},
                "pool": {"slots": clients + SPARE_SLOTS},
            },
        }

    def _key(self) -> bytes:
        def find() -> str:
            secret = self._kube.get("-n", self.namespace, "secret", f"{self._job}-key")
            return base64.b64decode(secret["data"]["auth_key"]).decode()

        return bytes.fromhex(until(find, f"the key of {self._job}", JOB_SECONDS))

    def _put_model(self) -> None:
        def put() -> bool:
            answer = self._submitter.request(
                "PUT",
                f"/v1/jobs/{self._job}/model",
                body=self._document,
                headers={"Content-Type": naming.MEDIA_SAFETENSORS},
                timeout=JOB_SECONDS,
            )
            if answer.status >= 300:
                raise ClusterError(f"the model: HTTP {answer.status}: {answer.data[:300]!r}")
            return True

        until(put, "the coordinator to take the model", JOB_SECONDS)

    def _delete(self) -> None:
        self._kube.run(
            "-n", self.namespace, "delete", "federatedjob", self._job, "--ignore-not-found"
        )

    # -- a round --

    def _opened(self) -> list[dict[str, Any]]:
        """Return each client's work in the next round, once it is open to all of them."""
        views = [self._work(client) for client in self._clients_names]
        self._round = views[0]["round"]
        if {v["round"] for v in views} != {self._round}:
            raise RuntimeError("clients were told of different rounds")
        return views

    def _work(self, client: str) -> dict[str, Any]:
        path = f"/v1/jobs/{self._job}/rounds/current?client={client}&wait=5&after={self._round}"

        def ask() -> dict[str, Any] | None:
            try:
                view: dict[str, Any] = self._asking[client].json("GET", path, timeout=30.0)
            except LiflError as e:
                raise ClusterError(str(e)) from e
            opened = view.get("state") == "open" and view["round"] > self._round
            return view if opened else None

        return until(ask, f"a round after {self._round} to open for {client}", JOB_SECONDS)

    def _request(self, index: int, view: Mapping[str, Any]) -> tuple[str, int, bytes]:
        client = self._clients_names[index]
        assert self._way is not None
        to, host, path = self._way.endpoint(view["upload_url"])
        headers = {
            naming.HEADER_CLIENT: client,
            naming.HEADER_NUM_SAMPLES: str(mean.samples(index)),
            "Authorization": f"Bearer {self._tokens[client]}",
        }
        return (*to, head(*to, path, len(self._document), headers, name=host))

    def _await_version(self, deadline: float) -> float:
        """Return when the new model's first bytes could be read (monotonic seconds)."""
        path = f"/v1/jobs/{self._job}/model?version={self._round}"
        while time.monotonic() < deadline:
            answer = self._submitter.request("GET", path, headers={"Range": "bytes=0-7"})
            if answer.status in (200, 206):
                return time.monotonic()
            time.sleep(POLL_SECONDS)  # asking must not compete with what is measured
        raise TimeoutError(f"model version {self._round} was not readable in {self._seconds:.0f} s")

    def _check(self) -> None:
        """Look at the new model in places, and at the Σ of samples behind it."""
        start = parse_header(self._document, len(self._document)).data_start
        sent = np.frombuffer(self._document, np.float32, offset=start)
        where = mean.places(sent.size)[::_EVERY]
        path = f"/v1/jobs/{self._job}/model?version={self._round}"
        found = b""
        for at in (start + 4 * i for i in where):
            answer = self._submitter.request("GET", path, headers={"Range": f"bytes={at}-{at + 3}"})
            found += answer.data
        mean.check(self.name, sent[where], np.frombuffer(found, np.float32))

        def account() -> dict[str, Any] | None:
            rows = self._submitter.json("GET", f"/v1/jobs/{self._job}/history")["rounds"]
            return next((r for r in rows if r.get("round") == self._round), None)

        summary = until(account, f"the account of round {self._round}", JOB_SECONDS)
        if summary["aggregated"] != self._load.clients:
            raise RuntimeError(f"{json.dumps(summary)}: {self._load.clients} updates were sent")
        mean.check_samples(self.name, summary["samples"], self._load.clients)
