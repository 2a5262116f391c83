"""Autoscaler, scheduler and platform together at a real API server.

Nobody runs containers: what a controller-manager, a kubelet and Knative would do is done by
small loops that know nothing of seats.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controller import knative
from controller.autoscaler import Autoscaler
from controller.autoscaler_metrics import AutoscalerMetrics
from controller.clients.activator import Activator
from controller.clients.api import Cluster, Object
from controller.clients.cache import Cache
from controller.clients.kinds import (
    DEPLOYMENT,
    EVENT,
    NAMESPACE,
    NODE,
    POD,
    POD_AUTOSCALER,
    SERVERLESS_SERVICE,
)
from controller.cluster.objects import node_object, pod_view
from controller.cluster.seats import seated
from controller.cluster.targets import Deployed
from controller.platform import ClusterPlatform
from controller.scheduler import Scheduler
from controller.scheduler_metrics import SchedulerMetrics
from lifl.naming import AUTOSCALER_CLASS, SCHEDULER
from lifl.platform.api import Aggregator

from .crds import installed
from .hollow import Deployments, Loop

KEEP = 2.0
REVISION = "aggregator-00001"


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


class Kubelet(Loop):
    """Makes every bound pod of a namespace ready, and ends those that are deleted."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        super().__init__("kubelet")
        self._cluster = cluster
        self._namespace = namespace
        self.broken = False

    def step(self) -> None:
        pods, _ = self._cluster.list(POD, self._namespace)
        for pod in pods:
            name, seen = pod["metadata"]["name"], pod_view(pod)
            if "deletionTimestamp" in pod["metadata"]:
                uid = pod["metadata"]["uid"]
                self._cluster.delete(POD, name, self._namespace, uid=uid, grace=0)
            elif seen.node and not seen.ready and not self.broken:
                ready = [{"type": "Ready", "status": "True"}]
                body = {"status": {"phase": "Running", "conditions": ready}}
                self._cluster.patch(POD, name, body, self._namespace, subresource="status")


class Serving(Loop):
    """Knative's part: a ServerlessService is ready while its Deployment has ready pods."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        super().__init__("knative")
        self._cluster = cluster
        self._namespace = namespace

    def step(self) -> None:
        services, _ = self._cluster.list(SERVERLESS_SERVICE, self._namespace)
        for sks in services:
            name = sks["metadata"]["name"]
            target = self._cluster.find(
                DEPLOYMENT, sks["spec"]["objectRef"]["name"], self._namespace
            )
            ready = bool(target and target.get("status", {}).get("readyReplicas"))
            status = {
                "observedGeneration": sks["metadata"]["generation"],
                "serviceName": name,
                "privateServiceName": f"{name}-private",
                "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
            }
            if sks.get("status") != status:
                self._cluster.patch(
                    SERVERLESS_SERVICE,
                    name,
                    {"status": status},
                    self._namespace,
                    subresource="status",
                )


class Stage:
    """A namespace with two nodes, the controller's parts, and everybody else's."""

    def __init__(self, cluster: Cluster, namespace: str, activator_url: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        cluster.create(NAMESPACE, {"metadata": {"name": namespace}})
        self.nodes = [f"{namespace}-n1", f"{namespace}-n2"]
        for name in self.nodes:
            cluster.create(NODE, {"metadata": {"name": name}})
            room = {"cpu": "64", "memory": "64Gi", "pods": "110"}
            status = {"allocatable": room, "capacity": room}
            status |= {"conditions": [{"type": "Ready", "status": "True"}]}  # type: ignore[dict-item]
            cluster.patch(NODE, name, {"status": status}, subresource="status")
            cluster.patch(NODE, name, {"spec": {"taints": None}})  # "not-ready", as all begin
        self.deployments = Cache(cluster, DEPLOYMENT, Deployed.parse, on_change=self._wake)
        self.pods = Cache(cluster, POD, pod_view, on_change=self._wake)
        self.node_cache = Cache(cluster, NODE, node_object, on_change=self._wake)
        self.caches: list[Cache[Any]] = [self.deployments, self.pods, self.node_cache]
        self.platform = ClusterPlatform(self.pods.values, on_wanted=self._wake, seat_seconds=6.0)
        self.activator = Activator(lambda: [activator_url], on_change=self._wake, period=0.05)
        self.autoscaler = Autoscaler(
            cluster,
            self.platform,
            deployments=self.deployments.values,
            pods=self.pods.values,
            namespaces=lambda: frozenset({namespace}),
            activator=self.activator,
            metrics=AutoscalerMetrics(CollectorRegistry()),
            keep_seconds=KEEP,
        )
        self.scheduler = Scheduler(
            cluster,
            pods=self.pods.values,
            nodes=self.node_cache.values,
            seats=self.platform.wanted,
            agents=lambda: frozenset(self.nodes),
            namespaces=lambda: frozenset({namespace}),
            mint=lambda uid, kind, name, job: "token",
            metrics=SchedulerMetrics(CollectorRegistry()),
        )
        self.kubelet = Kubelet(cluster, namespace)
        self.replicas_controller = Deployments(cluster, namespace)
        self.loops: list[Loop] = [self.replicas_controller, self.kubelet]

    def _wake(self) -> None:
        self.autoscaler.wake()
        self.scheduler.wake()

    def start(self) -> None:
        for cache in self.caches:
            cache.start()
        for cache in self.caches:
            assert cache.wait(30)
        self.platform.running()
        self.platform.running()
        for part in (*self.loops, self.activator, self.scheduler, self.autoscaler):
            part.start()  # type: ignore[attr-defined]

    def close(self) -> None:
        for part in (self.autoscaler, self.scheduler, self.activator, *self.loops, *self.caches):
            part.stop()  # type: ignore[attr-defined]
        self.platform.close()
        pods, _ = self.cluster.list(POD, self.namespace)
        for pod in pods:
            self.cluster.delete(POD, pod["metadata"]["name"], self.namespace, grace=0)
        for name in self.nodes:
            self.cluster.delete(NODE, name)
        for raw in self.cluster.list(DEPLOYMENT, self.namespace)[0]:
            self.cluster.delete(DEPLOYMENT, raw["metadata"]["name"], self.namespace)
        self.cluster.delete(NAMESPACE, self.namespace)

    # -- what tests do and see -------------------------------------------------------------

    def deploy(self, name: str = "aggregator", replicas: int = 0, **labels: str) -> None:
        of = {"app": name, "lifl.dev/function": "aggregator", **labels}
        containers = [{"name": "aggregator", "image": "hollow"}]
        body: Object = {
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": of},
                    "spec": {"schedulerName": SCHEDULER, "containers": containers},
                },
            },
        }
        self.cluster.create(DEPLOYMENT, body, self.namespace)

    def revise(self, number: int = 1, **notes: str) -> str:
        """Make what Knative makes of a revision; return the Deployment's name."""
        revision = f"aggregator-{number:05d}"
        labels = {"serving.knative.dev/revision": revision}
        self.deploy(f"{revision}-deployment", 1, **labels)
        scales = {f"autoscaling.knative.dev/{k.replace('_', '-')}": v for k, v in notes.items()}
        target = {"apiVersion": "apps/v1", "kind": "Deployment"}
        body = {
            "metadata": {
                "name": revision,
                "labels": labels,
                "annotations": {"autoscaling.knative.dev/class": AUTOSCALER_CLASS} | scales,
            },
            "spec": {
                "protocolType": "http1",
                "reachability": "Reachable",
                "scaleTargetRef": target | {"name": f"{revision}-deployment"},
            },
        }
        self.cluster.create(POD_AUTOSCALER, body, self.namespace)
        return f"{revision}-deployment"

    def want(self, *numbers: int, node: int = 0) -> None:
        for k in numbers:
            self.platform.start(Aggregator(f"j-agg-{k}", "j", self.nodes[node]), 0)

    def replicas(self, name: str = "aggregator") -> int:
        return int(self.cluster.get(DEPLOYMENT, name, self.namespace)["spec"]["replicas"])

    def seats(self) -> dict[str, str]:
        """Return the node of each seat that has a ready pod."""
        found = seated(p for p in self.pods.values() if p.namespace == self.namespace)
        return {name: p.node for name, p in found.items() if p.ready}

    def status(self, number: int = 1) -> Object:
        pa = self.cluster.get(POD_AUTOSCALER, f"aggregator-{number:05d}", self.namespace)
        return dict(pa.get("status") or {})

    def state(self, number: int = 1) -> dict[str, str]:
        return {c["type"]: c["status"] for c in self.status(number).get("conditions", ())}

    def mode(self) -> str:
        sks = self.cluster.get(SERVERLESS_SERVICE, REVISION, self.namespace)
        return str(sks["spec"]["mode"])

    def version(self, kind: Any, name: str) -> str:
        return str(self.cluster.get(kind, name, self.namespace)["metadata"]["resourceVersion"])


class Waiting:
    """An activator that says how many requests wait for the first revision."""

    def __init__(self) -> None:
        self.namespace, self.count = "", 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                labels = f'k8s_namespace_name="{fake.namespace}",kn_revision_name="{REVISION}"'
                raw = f"kn_revision_request_queued{{{labels}}} {fake.count}\n".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def api(cluster: Path) -> Iterator[Cluster]:
    connected = Cluster.connect(cluster)
    yield connected
    connected.close()


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    made = Waiting()
    yield made
    made.stop()


@pytest.fixture
def stage(
    api: Cluster, waiting: Waiting, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    monkeypatch.setattr(knative, "LOOK_SECONDS", 0.3)
    made = Stage(api, f"scale-{abs(hash(request.node.name)) % 10**8}", waiting.url)
    waiting.namespace = made.namespace
    made.start()
    yield made
    made.close()


@pytest.fixture
def served(api: Cluster, stage: Stage) -> Iterator[Stage]:
    """A stage on which Knative is installed, as the autoscaler finds out by itself."""
    with installed(api, "podautoscalers", "serverlessservices"):
        serving = Serving(api, stage.namespace)
        serving.start()
        yield stage
        stage.autoscaler.stop()
        serving.stop()


def test_seats_get_their_pods_and_give_them_back(stage: Stage) -> None:
    stage.deploy()
    stage.want(0, 1, 2)
    stage.want(3, node=1)
    one, two = stage.nodes
    wanted = {"j-agg-0": one, "j-agg-1": one, "j-agg-2": one, "j-agg-3": two}
    until(lambda: stage.seats() == wanted, "every seat has a pod on its node")
    assert stage.replicas() == 4
    before = {p.seat: p.uid for p in stage.pods.values() if p.seat}
    stage.platform.stop(["j-agg-1"])
    del wanted["j-agg-1"]
    until(lambda: stage.seats() == wanted and stage.replicas() == 3, "the right one went")
    after = {p.seat: p.uid for p in stage.pods.values() if p.seat and p.live}
    assert after == {k: v for k, v in before.items() if k != "j-agg-1"}
    events, _ = stage.cluster.list(EVENT, stage.namespace)
    words = [e["message"] for e in events if e["reason"] == "ScaledUp"]
    assert any("wanted: " in w and "by job j" in w for w in words)


def test_one_seat_goes_while_another_comes(stage: Stage) -> None:
    stage.deploy()
    stage.want(0, 1)
    until(lambda: len(stage.seats()) == 2, "two pods")
    kept = next(p.uid for p in stage.pods.values() if p.seat == "j-agg-1")
    stage.want(7, node=1)
    stage.platform.stop(["j-agg-0"])
    until(lambda: set(stage.seats()) == {"j-agg-1", "j-agg-7"}, "they changed places")
    until(lambda: stage.replicas() == 2, "two are enough")
    assert kept in {p.uid for p in stage.pods.values() if p.live}


def test_a_deleted_pods_seat_is_filled_again(stage: Stage) -> None:
    stage.deploy()
    stage.want(0)
    until(stage.seats, "a pod")
    (pod,) = [p for p in stage.pods.values() if p.seat == "j-agg-0"]
    stage.cluster.delete(POD, pod.name, stage.namespace)
    until(
        lambda: any(
            p.seat == "j-agg-0" and p.uid != pod.uid and p.ready for p in stage.pods.values()
        ),
        "another pod takes the seat",
    )
    assert stage.platform.running() == [Aggregator("j-agg-0", "j", stage.nodes[0])]


def test_a_new_minimum_is_followed_and_left_again(stage: Stage) -> None:
    stage.deploy()
    labels = {"metadata": {"labels": {"lifl.dev/min-scale": "12"}}}
    stage.cluster.patch(DEPLOYMENT, "aggregator", labels, stage.namespace)
    until(lambda: stage.replicas() == 12, "the minimum is followed", 5.0)
    ready = lambda: sum(p.ready and p.namespace == stage.namespace for p in stage.pods.values())  # noqa: E731
    until(lambda: ready() == 12, "all are ready")
    labels["metadata"]["labels"]["lifl.dev/min-scale"] = "1"
    stage.cluster.patch(DEPLOYMENT, "aggregator", labels, stage.namespace)
    until(lambda: stage.replicas() == 1 and ready() == 1, "it is left again")


def test_a_seat_that_does_not_become_ready_is_given_up(stage: Stage) -> None:
    stage.kubelet.broken = True
    stage.deploy()
    stage.want(0)
    until(lambda: any(p.seat for p in stage.pods.values()), "it is bound")
    assert stage.platform.running()
    until(lambda: not stage.platform.running(), "it is given up")
    assert stage.platform.full_nodes() == {stage.nodes[0]}
    until(lambda: stage.replicas() == 0, "its pod goes")
    until(
        lambda: (
            "SeatGivenUp" in {e["reason"] for e in stage.cluster.list(EVENT, stage.namespace)[0]}
        ),
        "it is said",
    )


def test_nothing_is_written_while_nothing_changes(served: Stage) -> None:
    name = served.revise(initial_scale="1")
    served.want(0, 1)
    until(lambda: len(served.seats()) == 2, "two pods")
    until(lambda: served.status().get("actualScale") == 2, "and not one more")
    until(lambda: served.state().get("Ready") == "True", "ready")

    def versions() -> list[str]:
        named = ((POD_AUTOSCALER, REVISION), (SERVERLESS_SERVICE, REVISION), (DEPLOYMENT, name))
        return [served.version(kind, which) for kind, which in named]

    def still(seconds: float) -> bool:
        before = versions()
        time.sleep(seconds)
        return before == versions()

    until(lambda: still(0.5), "everybody has heard of it")
    assert still(1.5)


def test_a_revision_is_brought_up_scaled_to_zero_and_back_by_a_request(
    served: Stage, waiting: Waiting
) -> None:
    name = served.revise()
    until(lambda: served.state().get("Ready") == "True", "Knative hears that it is up")
    status = served.status()
    assert status["serviceName"] == REVISION
    assert status["metricsServiceName"] == f"{REVISION}-private"
    assert len(status["conditions"]) == 4
    sks = served.cluster.get(SERVERLESS_SERVICE, REVISION, served.namespace)
    (owner,) = sks["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["controller"]) == ("PodAutoscaler", True)
    assert sks["spec"]["objectRef"]["name"] == name

    until(lambda: served.replicas(name) == 0, "nobody wants it")
    until(lambda: served.state().get("Active") == "False", "it is inactive")
    ready = next(c for c in served.status()["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "NoTraffic")
    assert served.state()["ScaleTargetInitialized"] == "True"
    assert served.mode() == "Proxy"

    waiting.count = 1
    until(lambda: served.status().get("actualScale") == 1, "a request brings a pod")
    assert served.mode() == "Proxy"
    waiting.count = 0
    until(lambda: served.replicas(name) == 0, "which goes when it was idle for a while")

    served.want(0)
    until(lambda: served.mode() == "Serve" and served.seats(), "seats are served by their pods")


def test_an_old_revisions_pods_go_when_it_is_unreachable(served: Stage) -> None:
    old = served.revise(1)
    served.want(0)
    until(served.seats, "a pod")
    until(lambda: served.state(1).get("ScaleTargetInitialized") == "True", "it was up")
    new = served.revise(2)
    until(lambda: served.state(2).get("ScaleTargetInitialized") == "True", "the new one was up")
    assert served.replicas(old) >= 1
    body = {"spec": {"reachability": "Unreachable"}}
    served.cluster.patch(POD_AUTOSCALER, "aggregator-00001", body, served.namespace)
    until(lambda: served.replicas(old) == 0, "the old one goes")
    until(served.seats, "the new one takes the seat")
    assert served.replicas(new) >= 1
