"""Gateways made of a template at a real API server, and what the coordinator is told of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from controller import gateways as module
from controller.clients.api import Cluster, Object
from controller.clients.cache import Cache
from controller.clients.errors import NotFound
from controller.clients.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    KNATIVE_SERVICE,
    NAMESPACE,
    NODE,
    POD,
    REPLICA_SET,
)
from controller.cluster import gateways as pure
from controller.cluster.objects import node_object, pod_view
from controller.cluster.targets import Deployed
from controller.coordinator import Coordinator, World
from controller.gateways import TEMPLATE, Gateways

from .crds import installed

SERVICE: Object = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Service",
    "metadata": {"name": "gateway"},
    "spec": {
        "template": {
            "metadata": {"labels": {"lifl.dev/function": "gateway"}},
            "spec": {
                "containers": [
                    {
                        "image": "registry.example.com/lifl/gateway:0.1.0",
                        "env": [{"name": "LIFL_AUTH", "value": "on"}],
                    }
                ]
            },
        }
    },
}


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


class FakeCoordinator:
    """Knows what it is told, of the nodes that report."""

    def __init__(self) -> None:
        self.nodes: tuple[str, ...] = ()
        self.public: dict[str, str] = {}
        self.told = 0

    def world(self) -> World:
        return World(1, (), self.nodes, (), dict(self.public))

    def publish(self, node: str, url: str) -> None:
        self.told += 1
        self.public[node] = url


class Stage:
    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        cluster.create(NAMESPACE, {"metadata": {"name": namespace}})
        self.agents: set[str] = set()
        self.coordinator = FakeCoordinator()
        self.nodes = Cache(cluster, NODE, node_object)
        self.deployments = Cache(cluster, DEPLOYMENT, Deployed.parse)
        self.pods = Cache(cluster, POD, pod_view)
        self.gateways = Gateways(
            cluster,
            cast(Coordinator, self.coordinator),
            nodes=self.nodes.values,
            pods=self.pods.values,
            agents=lambda: frozenset(self.agents),
            deployments=self.deployments.values,
            namespaces=lambda: frozenset({namespace}),
        )
        self.made: list[str] = []

    def start(self) -> None:
        for cache in (self.nodes, self.deployments, self.pods):
            cache.start()
            assert cache.wait(30)
        self.gateways.start()

    def node(self, name: str, hostname: str = "") -> str:
        labels = {"kubernetes.io/hostname": hostname or name}
        self.cluster.create(NODE, {"metadata": {"name": name, "labels": labels}})
        self.made.append(name)
        self.agents.add(name)
        return name

    def template(self, service: Object | str) -> None:
        text = service if isinstance(service, str) else yaml.safe_dump(service)
        body = {"metadata": {"name": TEMPLATE}, "data": {"service.yaml": text}}
        self.cluster.patch(CONFIG_MAP, TEMPLATE, body, self.namespace, server_side="a-person")

    def service(self, name: str) -> Object | None:
        try:
            return self.cluster.find(KNATIVE_SERVICE, name, self.namespace)
        except NotFound:
            return None

    def container(self, name: str) -> Object:
        service = self.service(name)
        assert service is not None
        return dict(service["spec"]["template"]["spec"]["containers"][0])

    def reasons(self) -> set[str]:
        return {e["reason"] for e in self.cluster.list(EVENT, self.namespace)[0]}

    def close(self) -> None:
        self.gateways.stop()
        self.nodes.stop()
        self.deployments.stop()
        self.pods.stop()
        for pod in self.cluster.list(POD, self.namespace)[0]:
            self.cluster.delete(POD, pod["metadata"]["name"], self.namespace, grace=0)
        for name in self.made:
            self.cluster.delete(NODE, name)
        for deployment in self.cluster.list(DEPLOYMENT, self.namespace)[0]:
            self.cluster.delete(DEPLOYMENT, deployment["metadata"]["name"], self.namespace)
        self.cluster.delete(NAMESPACE, self.namespace)


@pytest.fixture(scope="module")
def api(cluster: Path) -> Iterator[Cluster]:
    connected = Cluster.connect(cluster)
    yield connected
    connected.close()


@pytest.fixture
def stage(
    api: Cluster, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.1)
    made = Stage(api, f"gateways-{abs(hash(request.node.name)) % 10**8}")
    made.start()
    yield made
    made.close()


@pytest.fixture
def served(api: Cluster, stage: Stage) -> Iterator[Stage]:
    """Knative's kind is there, and the controller finds out by itself."""
    with installed(api, "services"):
        yield stage
        stage.gateways.stop()


def test_every_node_with_an_agent_gets_a_gateway(served: Stage) -> None:
    served.node("gw-n1", "host-1")
    served.node("ip-10-0-0-1.ec2.internal")
    served.template(SERVICE)
    first = until(lambda: served.service("gateway-gw-n1"), "a gateway for the first node")
    spec = first["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/hostname": "host-1"}
    assert served.container("gateway-gw-n1")["env"] == [{"name": "LIFL_AUTH", "value": "on"}]

    def named() -> list[str]:
        found, _ = served.cluster.list(KNATIVE_SERVICE, served.namespace)
        return sorted(s["metadata"]["name"] for s in found)

    until(lambda: len(named()) == 2, "a gateway for the second node")
    assert named()[1].startswith("gateway-ip-10-0-0-1-ec2-internal-")

    version = first["metadata"]["resourceVersion"]
    time.sleep(1.0)
    again = served.service("gateway-gw-n1")
    assert again is not None
    assert again["metadata"]["resourceVersion"] == version, "nothing changed, nothing is written"

    served.cluster.delete(NODE, "gw-n1")
    until(lambda: len(named()) == 1, "it goes with its node")


def test_a_changed_template_changes_the_gateways(served: Stage) -> None:
    served.node("gw-n1")
    served.template(SERVICE)
    until(lambda: served.service("gateway-gw-n1"), "a gateway")
    newer = copy.deepcopy(SERVICE)
    container = newer["spec"]["template"]["spec"]["containers"][0]
    container["image"] = "registry.example.com/lifl/gateway:0.2.0"
    del container["env"]
    newer["spec"]["template"]["spec"]["timeoutSeconds"] = 600
    served.template(newer)
    until(lambda: served.container("gateway-gw-n1")["image"].endswith("0.2.0"), "the new image")
    assert not served.container("gateway-gw-n1").get("env")
    served.template(SERVICE)
    until(lambda: served.container("gateway-gw-n1")["image"].endswith("0.1.0"), "and back")
    service = served.service("gateway-gw-n1")
    assert service is not None
    assert "timeoutSeconds" not in service["spec"]["template"]["spec"]


def test_a_service_that_is_somebody_elses_is_left_alone(served: Stage) -> None:
    theirs = {"metadata": {"name": "gateway-gw-n1"}, "spec": {"theirs": True}}
    served.cluster.create(KNATIVE_SERVICE, theirs, served.namespace)
    served.node("gw-n1")
    served.node("gw-n2")
    served.template(SERVICE)
    until(lambda: served.service("gateway-gw-n2"), "a gateway for the other node")
    left = served.service("gateway-gw-n1")
    assert left is not None
    assert left["spec"] == {"theirs": True}


def test_an_unusable_template_is_said_where_it_is(served: Stage) -> None:
    served.node("gw-n1")
    served.template("kind: Service\nspec: {}\n")
    until(lambda: "InvalidTemplate" in served.reasons(), "an event at the ConfigMap")
    served.template("a: [")
    served.template(SERVICE)
    until(lambda: served.service("gateway-gw-n1"), "it is used once it is good")


def test_the_coordinator_hears_where_clients_find_a_gateway(served: Stage) -> None:
    served.node("gw-n1")
    served.template(SERVICE)
    until(lambda: served.service("gateway-gw-n1"), "a gateway")
    url = "http://gateway-gw-n1.lifl.example.com"

    def route(status: str, url: str = url) -> None:
        ready = [{"type": "RoutesReady", "status": status}]
        body = {"status": {"url": url, "conditions": ready}}
        served.cluster.patch(
            KNATIVE_SERVICE, "gateway-gw-n1", body, served.namespace, subresource="status"
        )

    route("Unknown")
    served.coordinator.nodes = ("elsewhere", "gw-n1")
    time.sleep(0.5)
    assert served.coordinator.public == {}, "its route is not ready"
    route("True")
    until(lambda: served.coordinator.public == {"gw-n1": url}, "it is told")
    time.sleep(0.5)
    assert served.coordinator.told == 1
    served.coordinator.public.clear()  # another coordinator
    until(lambda: served.coordinator.public == {"gw-n1": url}, "it is told again")
    route("True", "https://other.example.com")
    until(
        lambda: served.coordinator.public == {"gw-n1": "https://other.example.com"},
        "a new domain is told",
    )


def test_an_old_gateway_makes_way_for_its_successor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pure, "WAIT_SECONDS", 1.0)
    stage.node("gw-n1")

    containers = [{"name": "gateway", "image": "hollow"}]
    for version in (1, 2):
        labels = {"version": str(version)}
        notes = {"deployment.kubernetes.io/revision": str(version)}
        spec = {"replicas": 1, "selector": {"matchLabels": labels}}
        spec |= {"template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}}
        body = {"metadata": {"name": f"gateway-{version}", "annotations": notes}, "spec": spec}
        stage.cluster.create(REPLICA_SET, body, stage.namespace)

    def pod(version: int, node: str) -> None:
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"gateway-{version}"}
        owner |= {"uid": f"0000000{version}", "controller": True}  # type: ignore[dict-item]
        labels = {"lifl.dev/function": "gateway"}
        spec: Object = {"schedulerName": "lifl-scheduler", "containers": containers}
        spec |= {"nodeName": node} if node else {}
        meta = {"name": f"gateway-{version}", "labels": labels, "ownerReferences": [owner]}
        stage.cluster.create(POD, {"metadata": meta, "spec": spec}, stage.namespace)

    def there(version: int) -> bool:
        found = stage.cluster.find(POD, f"gateway-{version}", stage.namespace)
        return found is not None and "deletionTimestamp" not in found["metadata"]

    pod(1, "gw-n1")
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    stage.cluster.patch(POD, "gateway-1", {"status": ready}, stage.namespace, subresource="status")
    time.sleep(1.1)  # creation times are whole seconds
    pod(2, "")
    assert there(1)
    until(lambda: not there(1), "the old one goes")
    stage.cluster.delete(POD, "gateway-1", stage.namespace, grace=0)
    until(lambda: stage.cluster.find(POD, "gateway-1", stage.namespace) is None, "it is gone")
    stage.cluster.bind(stage.namespace, "gateway-2", "gw-n1")
    stage.cluster.patch(POD, "gateway-2", {"status": ready}, stage.namespace, subresource="status")
    pod(1, "")  # its ReplicaSet makes another
    time.sleep(2.5)
    assert there(2), "the older one waits in vain"


def test_openfaas_gets_a_pod_for_each_node(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"faas_function": "lifl-gateway"}
    template = labels | {"lifl.dev/function": "gateway", "com.openfaas.scale.max": "3"}
    body: Object = {
        "metadata": {"name": "lifl-gateway", "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": template},
                "spec": {"containers": [{"name": "lifl-gateway", "image": "hollow"}]},
            },
        },
    }
    stage.cluster.create(DEPLOYMENT, body, stage.namespace)

    def replicas() -> int:
        deployment = stage.cluster.get(DEPLOYMENT, "lifl-gateway", stage.namespace)
        return int(deployment["spec"]["replicas"])

    for k in range(2):
        stage.node(f"faas-n{k}")
    until(lambda: replicas() == 2, "one for each node")
    for k in range(2, 5):
        stage.node(f"faas-n{k}")
    until(lambda: replicas() == 3, "at most as many as it may have")
    stage.agents.clear()
    time.sleep(0.5)
    assert replicas() == 3, "agents that are being replaced do not take gateways away"
    monkeypatch.setattr(module, "AWAY_SECONDS", 0.2)
    until(lambda: replicas() == 1, "but if they stay away")
