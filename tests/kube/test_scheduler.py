"""The scheduler at a real API server, with the rights that the controller's manifest gives it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controller.clients.api import Cluster, Object
from controller.clients.cache import Cache
from controller.clients.kinds import EVENT, NAMESPACE, NODE, POD, Kind
from controller.cluster.binding import Bind, Provision, Refuse
from controller.cluster.objects import NodeObject, PodView, node_object, pod_view
from controller.cluster.seats import Seat
from controller.scheduler import Scheduler
from controller.scheduler_metrics import SchedulerMetrics
from controller.volumes import CLAIM, SELECTED_NODE, STORAGE_CLASS, VOLUME
from lifl.naming import (
    ANNOTATION_JOB,
    ANNOTATION_NAME,
    ANNOTATION_REGISTRATION,
    LABEL_FUNCTION,
    SCHEDULER,
)

from .apiserver import ApiServer
from .roles import SYSTEM, controller_login

ROLE_BINDING = Kind("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding")

_numbers = itertools.count()


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def admin(apiserver: ApiServer) -> Iterator[Cluster]:
    connected = Cluster.connect(apiserver.admin)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def controller(apiserver: ApiServer, admin: Cluster) -> Iterator[Cluster]:
    """Connect as the controller's service account."""
    connected = Cluster.connect(controller_login(apiserver, admin))
    yield connected
    connected.close()


class Stage:
    """A namespace for functions, nodes without kubelets, and a scheduler that sees no others."""

    def __init__(self, admin: Cluster, controller: Cluster) -> None:
        self.admin, self.number = admin, next(_numbers)
        self.namespace = f"scheduling-{self.number}"
        self.node_names: list[str] = []
        self.seats: list[Seat] = []
        self.registry = CollectorRegistry()
        admin.create(NAMESPACE, {"metadata": {"name": self.namespace}})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
        subject = {"kind": "ServiceAccount", "name": "controller", "namespace": SYSTEM}
        admin.create(
            ROLE_BINDING,
            {
                "metadata": {"name": "lifl-functions", "namespace": self.namespace},
                "roleRef": role | {"name": "lifl-functions"},
                "subjects": [subject],
            },
            self.namespace,
        )
        self.pods = Cache(controller, POD, pod_view, on_change=self.changed)
        self.nodes = Cache(controller, NODE, node_object, on_change=self.changed)
        self.agents: frozenset[str] | None = None
        self.scheduler = Scheduler(
            controller,
            pods=self.pods.values,
            nodes=self.own_nodes,
            seats=lambda: self.seats,
            agents=lambda: frozenset(self.node_names) if self.agents is None else self.agents,
            namespaces=lambda: frozenset({self.namespace}),
            mint=lambda *claims: "/".join(claims),
            metrics=SchedulerMetrics(self.registry),
        )

    def changed(self) -> None:
        self.scheduler.wake()

    def open(self) -> None:
        for cache in (self.pods, self.nodes):
            cache.start()
            assert cache.wait(30)

    def close(self) -> None:
        self.scheduler.stop()
        self.pods.stop()
        self.nodes.stop()
        for raw in self.admin.list(POD, self.namespace)[0]:
            self.admin.delete(POD, raw["metadata"]["name"], self.namespace, grace=0)
        for name in self.node_names:
            self.admin.delete(NODE, name)
        self.admin.delete(NAMESPACE, self.namespace)

    def own_nodes(self) -> list[NodeObject]:
        return [n for n in self.nodes.values() if n.name in self.node_names]

    # -- making ----------------------------------------------------------------------

    def node(self, cpu: str = "2", **spec: Any) -> str:
        name = f"node-{self.number}-{len(self.node_names)}"
        labels = {"kubernetes.io/hostname": name}
        self.admin.create(NODE, {"metadata": {"name": name, "labels": labels}})
        self.admin.patch(NODE, name, {"spec": {"taints": None} | spec})
        room = {"cpu": cpu, "memory": "4Gi", "pods": "110"}
        status: Object = {"allocatable": room, "capacity": room}
        status["conditions"] = [{"type": "Ready", "status": "True"}]
        self.admin.patch(NODE, name, {"status": status}, subresource="status")
        self.node_names.append(name)
        until(
            lambda: (seen := self.nodes.get(name)) is not None and seen.ready and not seen.taints,
            "the node is seen",
        )
        return name

    def pod(self, name: str, function: str = "", cpu: str = "1", **spec: Any) -> None:
        labels = {LABEL_FUNCTION: function} if function else {}
        container = {
            "name": "c",
            "image": "hollow",
            "resources": {"requests": {"cpu": cpu, "memory": "16Mi"}},
        }
        body: Object = {
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "spec": {"schedulerName": SCHEDULER, "containers": [container], **spec},
        }
        self.admin.create(POD, body, self.namespace)
        until(lambda: self.pods.get(name, self.namespace), "the pod is seen")

    # -- seeing ----------------------------------------------------------------------

    def raw(self, name: str) -> Object:
        return self.admin.get(POD, name, self.namespace)

    def where(self, name: str) -> str:
        return str(self.raw(name)["spec"].get("nodeName", ""))

    def events(self, pod: str) -> list[Object]:
        fields = f"involvedObject.name={pod}"
        return self.admin.list(EVENT, self.namespace, fields=fields)[0]

    def told(self, pod: str, reason: str) -> list[str]:
        found = until(
            lambda: [e["message"] for e in self.events(pod) if e["reason"] == reason], reason
        )
        return list(found)

    def condition(self, pod: str) -> Object:
        conditions = self.raw(pod).get("status", {}).get("conditions", ())
        return next((c for c in conditions if c["type"] == "PodScheduled"), {})

    def step(self) -> list[type]:
        return [type(d) for d in self.scheduler.step() if d.pod.namespace == self.namespace]


@pytest.fixture
def stage(admin: Cluster, controller: Cluster) -> Iterator[Stage]:
    made = Stage(admin, controller)
    try:
        made.open()
        yield made
    finally:
        made.close()


def seats(*nodes: str) -> list[Seat]:
    return [Seat(f"digits-agg-{i}", "digits", n) for i, n in enumerate(nodes)]


def test_a_pod_gets_its_node_and_its_seat_in_one_step(stage: Stage) -> None:
    stage.node()
    second = stage.node()
    stage.seats = seats(second)
    stage.pod("p", "aggregator")
    assert stage.step() == [Bind]
    raw = stage.raw("p")
    uid = raw["metadata"]["uid"]
    assert raw["spec"]["nodeName"] == second
    assert raw["metadata"]["annotations"] == {
        ANNOTATION_JOB: "digits",
        ANNOTATION_NAME: "digits-agg-0",
        ANNOTATION_REGISTRATION: f"{uid}/aggregator/digits-agg-0/digits",
    }
    assert stage.condition("p")["status"] == "True"
    words = f"Successfully assigned {stage.namespace}/p to {second}"
    assert stage.told("p", "Scheduled") == [words]
    event = stage.events("p")[0]
    assert (event["type"], event["source"]["component"]) == ("Normal", SCHEDULER)
    assert event["involvedObject"]["uid"] == uid


def test_what_a_template_claims_to_be_is_overwritten_by_the_binding(stage: Stage) -> None:
    stage.node()
    stage.seats = seats(*stage.node_names)
    body: Object = {
        "metadata": {
            "name": "liar",
            "labels": {LABEL_FUNCTION: "aggregator"},
            "annotations": {ANNOTATION_JOB: "another", ANNOTATION_NAME: "another-agg-0"},
        },
        "spec": {"schedulerName": SCHEDULER, "containers": [{"name": "c", "image": "hollow"}]},
    }
    stage.admin.create(POD, body, stage.namespace)
    until(lambda: stage.pods.get("liar", stage.namespace), "the pod is seen")
    stage.step()
    notes = stage.raw("liar")["metadata"]["annotations"]
    assert (notes[ANNOTATION_JOB], notes[ANNOTATION_NAME]) == ("digits", "digits-agg-0")


def test_bestfit_counts_what_is_on_the_nodes(stage: Stage) -> None:
    small, large = stage.node("2"), stage.node("4")
    for name in ("a", "b", "c"):
        stage.pod(name, cpu="1500m")
    stage.step()
    assert {n: stage.where(n) for n in "abc"} == {"a": large, "b": large, "c": small}


def test_why_a_pod_waits_is_told_once_and_forgotten_when_it_is_bound(stage: Stage) -> None:
    stage.node("1")
    second = stage.node("4", unschedulable=True)
    stage.pod("p", cpu="2")
    for _ in range(3):
        assert stage.step() == [Refuse]
    words = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable."
    assert stage.told("p", "FailedScheduling") == [words]
    condition = until(lambda: stage.condition("p"), "the condition")
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    assert condition["message"] == words
    assert [e["count"] for e in stage.events("p")] == [1]
    stage.admin.patch(NODE, second, {"spec": {"unschedulable": None, "taints": None}})
    until(lambda: not (n := stage.nodes.get(second)) or not n.unschedulable, "uncordoned")
    assert stage.step() == [Bind]
    assert stage.where("p") == second
    assert stage.condition("p")["status"] == "True"
    assert len(stage.raw("p")["status"]["conditions"]) == 1


def test_a_gateway_on_each_node_with_an_agent_and_the_coordinator(stage: Stage) -> None:
    for _ in range(3):
        stage.node()
    stage.agents = frozenset(stage.node_names[:2])
    for i in range(3):
        stage.pod(f"g{i}", "gateway", cpu="100m")
    stage.pod("c", "coordinator", cpu="100m")
    stage.step()
    places = [stage.where(f"g{i}") for i in range(3)]
    assert sorted(places) == ["", *stage.node_names[:2]]
    assert stage.where("c") in stage.agents
    notes = stage.raw("c")["metadata"]["annotations"]
    assert (notes[ANNOTATION_NAME], notes[ANNOTATION_JOB]) == ("coordinator", "*")


def test_the_conditions_of_a_pod_and_the_taints_of_nodes_count(stage: Stage) -> None:
    tainted = [{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}]
    first = stage.node()
    stage.admin.patch(NODE, first, {"spec": {"taints": tainted}})
    second = stage.node()
    until(lambda: (n := stage.nodes.get(first)) is not None and n.taints, "tainted")
    stage.pod("picky", nodeSelector={"kubernetes.io/hostname": first})
    tolerates = [{"key": "dedicated", "operator": "Exists"}]
    stage.pod("guest", nodeSelector={"kubernetes.io/hostname": first}, tolerations=tolerates)
    stage.pod("plain")
    stage.step()
    assert [stage.where(n) for n in ("picky", "guest", "plain")] == ["", first, second]


def frozen(stage: Stage) -> list[PodView]:
    """Return what the cache shows now, for a scheduler that will not hear of changes."""
    views = stage.pods.values()
    stage.scheduler._pods = lambda: views
    return views


def test_a_pod_that_another_scheduler_was_faster_with_stays_there(stage: Stage) -> None:
    first, second = stage.node("2"), stage.node("4")
    stage.pod("p", cpu="1500m")
    frozen(stage)
    stage.admin.bind(stage.namespace, "p", first)
    assert stage.step() == [Bind]  # to the roomier, which the server refuses
    assert stage.where("p") == first
    assert stage.step() == []
    assert stage.registry.get_sample_value("lifl_scheduler_bound_total", {"function": "other"}) is (
        None
    )
    assert second in stage.node_names


def test_its_own_binding_of_which_it_knows_nothing_is_recognised(stage: Stage) -> None:
    node = stage.node()
    stage.pod("p")
    frozen(stage)
    stage.admin.bind(stage.namespace, "p", node)
    assert stage.step() == [Bind]
    assert stage.told("p", "Scheduled")
    assert stage.step() == []


def test_a_pod_that_is_gone_or_was_replaced_by_one_of_its_name_is_not_bound(stage: Stage) -> None:
    stage.node()
    for name in ("gone", "replaced"):
        stage.pod(name)
    frozen(stage)
    for name in ("gone", "replaced"):
        stage.admin.delete(POD, name, stage.namespace, grace=0)
    body: Object = {
        "metadata": {"name": "replaced"},
        "spec": {"schedulerName": SCHEDULER, "containers": [{"name": "c", "image": "hollow"}]},
    }
    stage.admin.create(POD, body, stage.namespace)
    assert stage.step() == [Bind, Bind]
    minor = int(stage.admin.version().split(".")[1])
    if minor >= 22:  # older servers do not look at the uid that a binding is for
        assert stage.where("replaced") == ""
        assert stage.events("replaced") == []


def test_where_the_controller_has_no_rights_it_leaves_a_pod_alone(
    stage: Stage, admin: Cluster
) -> None:
    stage.node()
    other = f"others-{stage.number}"
    admin.create(NAMESPACE, {"metadata": {"name": other}})
    body: Object = {
        "metadata": {"name": "p"},
        "spec": {"schedulerName": SCHEDULER, "containers": [{"name": "c", "image": "hollow"}]},
    }
    try:
        admin.create(POD, body, other)
        until(lambda: stage.pods.get("p", other), "the pod is seen")
        decided = [d for d in stage.scheduler.step() if d.pod.namespace == other]
        assert [type(d) for d in decided] == [Bind]
        assert [d for d in stage.scheduler.step() if d.pod.namespace == other] == []
        assert "nodeName" not in admin.get(POD, "p", other)["spec"]
    finally:
        admin.delete(POD, "p", other, grace=0)
        admin.delete(NAMESPACE, other)


def test_a_binding_in_doubt_is_made_when_the_server_is_back(
    stage: Stage, apiserver: ApiServer
) -> None:
    node = stage.node()
    stage.seats = seats(node)
    stage.pod("p", "aggregator")
    frozen(stage)
    apiserver.stop()
    try:
        assert stage.step() == [Bind]
        assert stage.step() == []
    finally:
        apiserver.start()
    assert stage.step() == []  # decided long ago, made now
    raw = until(lambda: stage.raw("p"), "the pod")
    assert raw["spec"]["nodeName"] == node
    assert raw["metadata"]["annotations"][ANNOTATION_NAME] == "digits-agg-0"


# -- volumes -------------------------------------------------------------------------


def claim(stage: Stage, name: str, storage_class: str) -> None:
    body: Object = {
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    stage.admin.create(CLAIM, body, stage.namespace)


def storage_class(stage: Stage, mode: str) -> Iterator[str]:
    name = f"class-{stage.number}"
    body = {"metadata": {"name": name}, "provisioner": "example.com/disks"}
    stage.admin.create(STORAGE_CLASS, body | {"volumeBindingMode": mode})
    yield name
    stage.admin.delete(STORAGE_CLASS, name)


def provide(stage: Stage, name: str, node: str, class_name: str) -> Object:
    """Do what a provisioner does, and the controller that binds volumes."""
    volume = f"volume-{stage.number}"
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    body: Object = {
        "metadata": {"name": volume},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": class_name,
            "csi": {"driver": "example.com", "volumeHandle": volume},
            "claimRef": {"namespace": stage.namespace, "name": name},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
        },
    }
    stage.admin.create(VOLUME, body)
    stage.admin.patch(CLAIM, name, {"spec": {"volumeName": volume}}, stage.namespace)
    bound = {"status": {"phase": "Bound"}}
    return stage.admin.patch(CLAIM, name, bound, stage.namespace, subresource="status")


def unbound(stage: Stage) -> bool:
    words = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    return words in stage.told("c", "FailedScheduling")


VOLUMES: list[Object] = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]


def test_a_volume_that_waits_for_a_node_is_told_it_and_then_waited_for(stage: Stage) -> None:
    stage.node("2")
    large = stage.node("4")
    for class_name in storage_class(stage, "WaitForFirstConsumer"):
        claim(stage, "data", class_name)
        stage.pod("c", "coordinator", volumes=VOLUMES)
        assert stage.step() == [Provision]
        notes = stage.admin.get(CLAIM, "data", stage.namespace)["metadata"]["annotations"]
        assert notes[SELECTED_NODE] == large
        assert stage.step() == [Refuse]
        assert f"waits for its volume on {large}" in stage.told("c", "FailedScheduling")[0]
        provide(stage, "data", large, class_name)
        until(lambda: stage.step() == [Bind], "the pod is bound")
        assert stage.where("c") == large
        stage.admin.delete(VOLUME, f"volume-{stage.number}")


def test_a_pod_goes_to_its_volume_and_waits_for_one_that_is_not_bound(stage: Stage) -> None:
    small = stage.node("2")
    stage.node("4")
    for class_name in storage_class(stage, "Immediate"):
        stage.pod("c", volumes=VOLUMES)
        assert stage.step() == [Refuse]
        assert "not found" in stage.told("c", "FailedScheduling")[0]
        claim(stage, "data", class_name)
        until(lambda: stage.step() and unbound(stage), "it is told")
        provide(stage, "data", small, class_name)
        until(lambda: stage.step() == [Bind], "the pod is bound")
        assert stage.where("c") == small
        stage.admin.delete(VOLUME, f"volume-{stage.number}")


# -- all of it, running --------------------------------------------------------------


def test_running_it_binds_what_comes_and_ends_without_a_thread_left(stage: Stage) -> None:
    threads = set(threading.enumerate())
    stage.node("8")
    second = stage.node("8")
    stage.scheduler.start()
    try:
        stage.seats = seats(*[second] * 6)
        for i in range(6):
            stage.pod(f"p{i}", "aggregator", cpu="100m")
        until(lambda: all(stage.where(f"p{i}") == second for i in range(6)), "all are bound")
        names = [stage.raw(f"p{i}")["metadata"]["annotations"][ANNOTATION_NAME] for i in range(6)]
        assert sorted(names) == [f"digits-agg-{i}" for i in range(6)]
        stage.pod("more", cpu="7900m")
        until(lambda: stage.where("more"), "what fits is bound")
        stage.pod("evenmore", cpu="7900m")  # of pods of one second the name would decide
        stage.told("evenmore", "FailedScheduling")
        stage.admin.delete(POD, "more", stage.namespace, grace=0)
        until(lambda: stage.where("evenmore"), "room that is free again is used at once", 5)
    finally:
        stage.scheduler.stop()
    assert set(threading.enumerate()) <= threads


def test_twenty_pods_are_bound_quickly(stage: Stage) -> None:
    for _ in range(4):
        stage.node("64")
    names = [f"p{i}" for i in range(20)]
    for name in names:
        stage.pod(name, cpu="100m")
    began = time.monotonic()
    stage.step()
    spent = time.monotonic() - began
    assert all(stage.where(n) for n in names)
    print(f"20 pods bound in {spent * 1000:.0f} ms")
    assert spent < 10


def seat_names(pods: Sequence[PodView]) -> list[str]:
    return sorted(p.seat for p in pods if p.seat)


def test_a_successor_finds_who_sits_where(stage: Stage) -> None:
    node = stage.node()
    stage.seats = seats(node)
    stage.pod("p", "aggregator", cpu="100m")
    stage.step()
    until(lambda: seat_names(stage.pods.values()) == ["digits-agg-0"], "the cache shows the seat")
    stage.pod("q", "aggregator", cpu="100m")
    after = Scheduler(
        stage.scheduler._cluster,
        pods=stage.pods.values,
        nodes=stage.own_nodes,
        seats=lambda: stage.seats,
        agents=lambda: frozenset(stage.node_names),
        namespaces=lambda: frozenset({stage.namespace}),
        mint=lambda *claims: "token",
        metrics=SchedulerMetrics(CollectorRegistry()),
    )
    try:
        after.step()
    finally:
        after.stop()
    assert stage.raw("q")["metadata"]["annotations"] == {ANNOTATION_JOB: "", ANNOTATION_NAME: "q"}
