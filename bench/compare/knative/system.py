"""Vanilla Knative as a side: deployed, played round by round, taken off again.

Why: a round here is what a user of plain Knative gets: clients post CloudEvents to the Broker's
ingress, its channel keeps the payload and sends it to every Trigger's filter, the filter sends
what matches through ingress, activator (where that is in the path) and queue-proxy to the function,
and the reply goes back the same way as a new event. It must not use anything of LIFL's but the
image.
"""

from __future__ import annotations

import contextlib
import platform
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np

from bench.clients import Clients, Sent, head
from bench.compare import mean
from bench.compare.api import Load, Reference, Round
from bench.compare.knative import events, manifests
from bench.compare.knative.kube import ClusterError, Kube, condition, until
from bench.compare.knative.settings import Settings, address
from bench.compare.knative.sink import Sink, local_address
from lifl.update import parse_header

READY_SECONDS = 240.0
ZERO_SECONDS = 300.0
END_SECONDS = 120
APIS = {
    "serving.knative.dev/v1": "Knative Serving",
    "eventing.knative.dev/v1": "Knative Eventing",
}


class Knative:
    """An ``api.System`` on the cluster of ``KUBECONFIG``; its CPU is read by ``usage.Meter``."""

    def __init__(
        self, load: Load, document: bytes, settings: Settings, kube: Kube | None = None
    ) -> None:
        zero = settings.from_zero
        self.name = "knative-zero" if zero else "knative"
        self.title = f"Vanilla Knative, cluster ({'from zero' if zero else 'kept warm'})"
        self.stand_ins: Sequence[str] = _stand_ins(settings)
        self.versions: Mapping[str, str] = {"python": platform.python_version()}
        self.namespace = settings.namespace
        self.block = 1 if zero else 0  # its pods end between rounds, and their CPU with them
        self._load, self._document, self._settings = load, document, settings
        self._kube = kube or Kube()
        self._leaves = events.leaves(max(load.sizes or (load.clients,)), settings.fan_in)
        self._run, self._round = uuid.uuid4().hex[:8], 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Deploy all objects and wait until each is Ready; then start the clients."""
        with contextlib.ExitStack() as stack:
            self._check_cluster()
            self._sink = stack.enter_context(Sink(self._settings.sink or self._towards_nodes()))
            self._kube.apply([manifests.namespace(self._settings)])
            stack.callback(self._remove)
            self._deploy()
            self._ingress, self._path = self._broker_address()
            self._clients = stack.enter_context(Clients(self._load.clients, self._document))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Delete the namespace, with all that is in it."""
        self._stack.close()

    def play(self, updates: int | None = None) -> Round:
        """Play one round; see ``api.System``.

        Raises
        ------
        RuntimeError
            if an update was refused, an event given up, or the mean is wrong.
        TimeoutError
            if no mean came.
        """
        number = self._load.clients if updates is None else updates
        if self._settings.from_zero:
            until(lambda: not self.pods(), "all aggregators' pods to end", ZERO_SECONDS)
        before = {p["metadata"]["uid"] for p in self.pods()}
        self._round += 1
        subject = f"{self._run}.{self._round}"
        requests = self._requests(subject, number)
        start = time.monotonic()
        self._clients.start(requests, at=[start + a for a in self._load.arrivals[:number]])
        sent = self._clients.wait()
        self._check(sent)
        arrived = self._sink.mean(subject, start + self._settings.round_seconds)
        self._check_mean(arrived.document, float(arrived.about["liflsamples"]), number)
        pods = self.pods()
        return Round(
            wall=arrived.at - start,
            last_byte=max(s.last_byte for s in sent) - start,
            updates=number,
            created=len({p["metadata"]["uid"] for p in pods} - before),
            nodes=len({p["spec"]["nodeName"] for p in pods if p["spec"].get("nodeName")}),
            marks={"accepted": max(s.answered for s in sent) - start},
        )

    def references(self) -> Sequence[Reference]:
        """Return nothing: nobody has published this path on this cluster."""
        return ()

    def pods(self) -> list[dict[str, Any]]:
        """Return the aggregators' pods that are there, those on their way out included."""
        found = self._kube.get("-n", self.namespace, "pods", "-l", "serving.knative.dev/service")
        pods: list[dict[str, Any]] = found["items"]
        return pods

    def _check_cluster(self) -> None:
        for api, what in APIS.items():
            if not self._kube.serves(api):
                raise ClusterError(f"this cluster has no {api}; install {what}")
        if self._kube.run("get", "namespace", self.namespace, "--ignore-not-found"):
            raise ClusterError(
                f"namespace {self.namespace} exists; a run makes and deletes its own: "
                f"kubectl delete namespace {self.namespace}, or name another by --namespace"
            )

    def _towards_nodes(self) -> str:
        addresses = self._kube.get("nodes")["items"][0]["status"]["addresses"]
        return local_address(next(a["address"] for a in addresses if a["type"] == "InternalIP"))

    def _deploy(self) -> None:
        s = self._settings
        self._kube.apply(
            [manifests.broker(s, self._sink.dead_letters), *manifests.services(s, self._leaves)]
        )
        self._await("broker.eventing.knative.dev")
        self._await("service.serving.knative.dev")
        self._kube.apply(manifests.triggers(s, self._leaves, self._sink.means))
        self._await("trigger.eventing.knative.dev")

    def _await(self, kind: str) -> None:
        """Wait until every object of a kind is Ready."""
        said: dict[str, str] = {}

        def ask() -> bool:
            items = self._kube.get("-n", self.namespace, kind)["items"]
            states = {i["metadata"]["name"]: condition(i) for i in items}
            said.clear()
            said.update({n: why for n, (status, why) in states.items() if status != "True"})
            return bool(items) and not said

        try:
            until(ask, f"every {kind.partition('.')[0]} to be Ready", READY_SECONDS)
        except ClusterError as e:
            raise ClusterError(f"{e}; {said}") from e

    def _broker_address(self) -> tuple[tuple[str, int], str]:
        """Return where clients connect to, and the path they ask for."""
        broker = self._kube.get(
            "-n", self.namespace, "broker.eventing.knative.dev", manifests.BROKER
        )
        url = urlsplit(broker["status"]["address"]["url"])
        if self._settings.ingress:
            return address(self._settings.ingress, "--ingress"), url.path
        service, home = (url.hostname or "").split(".")[:2]
        spec = self._kube.get("-n", home, "service", service)["spec"]
        to = (str(spec["clusterIP"]), url.port or 80)
        try:
            socket.create_connection(to, timeout=5.0).close()
        except OSError as e:
            raise ClusterError(
                f"the Broker's ingress {service}.{home} is not reached from here at "
                f"{to[0]}:{to[1]} ({e}); say by --ingress HOST:PORT where it is"
            ) from e
        return to, url.path

    def _requests(self, subject: str, number: int) -> list[tuple[str, int, bytes]]:
        found = []
        for i, part in enumerate(events.plan(number, self._settings.fan_in)):
            about = events.attributes(subject, i, part, mean.samples(i))
            asked = head(*self._ingress, self._path, len(self._document), events.headers(about))
            found.append((*self._ingress, asked))
        return found

    def _check(self, sent: Sequence[Sent]) -> None:
        if bad := [s for s in sent if s.status != 202]:
            raise RuntimeError(
                f"{self.name}: {len(bad)} of {len(sent)} updates were refused by the Broker, "
                f"first: {bad[0].answer[-400:]!r}"
            )

    def _check_mean(self, document: bytearray, samples: float, number: int) -> None:
        sent = _floats(self._document)
        places = mean.places(sent.size)
        found = _floats(document)
        if found.size != sent.size:
            raise RuntimeError(f"{self.name}: a mean of {found.size} elements, not {sent.size}")
        mean.check(self.name, sent[places], found[places])
        mean.check_samples(self.name, samples, number)

    def _remove(self) -> None:
        """Delete Services first: a namespace is looked at again only after half its pods' grace.

        Whatever of that fails, a webhook of a Broker that is overrun for one, the namespace goes.
        """
        home, label = ("-n", self.namespace), "serving.knative.dev/service"
        kinds = ("trigger.eventing.knative.dev", "broker.eventing.knative.dev")
        steps = [("delete", k, "--all") for k in (*kinds, "service.serving.knative.dev")]
        steps.append(("wait", "--for=delete", "pod", "-l", label, f"--timeout={END_SECONDS}s"))
        for step in steps:
            with contextlib.suppress(ClusterError):
                self._kube.run(*home, *step)
        self._kube.run("delete", "namespace", self.namespace, "--ignore-not-found", seconds=400.0)


def _floats(document: bytes | bytearray) -> np.ndarray[Any, np.dtype[np.float32]]:
    start = parse_header(document, len(document)).data_start
    return np.frombuffer(document, np.float32, offset=start)


def _stand_ins(settings: Settings) -> tuple[str, ...]:
    return (
        "a Service a leaf, of one replica: a stock Service does not send the updates of one sum to "
        "one replica (flatters it: nothing is lost to scaling out in the middle of a sum)",
        "clients reach the Broker without TLS, and by its Service's address where --ingress does "
        "not say otherwise, without an ingress or authentication before it (flatters it)",
        "means end at the harness, nothing is written to disk (flatters it)",
        f"the Broker is of class {settings.broker_class}, delivers with {settings.retry} retries, "
        "and keeps events where its configuration says: in memory, by default (flatters it)",
    )
