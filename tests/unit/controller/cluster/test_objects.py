from __future__ import annotations

import copy
import json
import tracemalloc
from typing import Any

import pytest

from controller.cluster.objects import (
    Owner,
    Requirement,
    Taint,
    Term,
    Toleration,
    node_object,
    pod_view,
)
from controller.cluster.resources import Resources

POD: dict[str, Any] = {
    "metadata": {
        "namespace": "lifl",
        "name": "aggregator-7d9f-x2x4z",
        "uid": "u-1",
        "creationTimestamp": "2026-11-01T12:00:00Z",
        "labels": {"lifl.dev/function": "aggregator", "app": "aggregator"},
        "annotations": {
            "lifl.dev/job": "digits",
            "lifl.dev/name": "digits-agg-3",
            "controller.kubernetes.io/pod-deletion-cost": "-1000",
        },
        "ownerReferences": [
            {"kind": "Thing", "name": "t", "uid": "t-1"},
            {"kind": "ReplicaSet", "name": "aggregator-7d9f", "uid": "r-1", "controller": True},
        ],
    },
    "spec": {
        "schedulerName": "lifl-scheduler",
        "nodeName": "n1",
        "priority": 5,
        "nodeSelector": {"zone": "b", "disk": "ssd"},
        "containers": [
            {
                "name": "a",
                "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}},
                "ports": [
                    {"containerPort": 80},
                    {"containerPort": 81, "hostPort": 81, "hostIP": "0.0.0.0"},
                    {"containerPort": 53, "hostPort": 53, "hostIP": "10.0.0.1", "protocol": "UDP"},
                ],
            }
        ],
        "tolerations": [
            {"operator": "Exists"},
            {"key": "a", "value": "b", "effect": "NoSchedule"},
        ],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {"key": "gpu", "operator": "In", "values": ["a", "b"]},
                                {"key": "old", "operator": "DoesNotExist"},
                            ],
                            "matchFields": [
                                {"key": "metadata.name", "operator": "In", "values": ["n1"]}
                            ],
                        }
                    ]
                }
            }
        },
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "checkpoints"}},
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}},
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.1.2.3",
        "conditions": [
            {"type": "ContainersReady", "status": "False"},
            {"type": "Ready", "status": "True"},
        ],
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(POD)
    *way, last = path.split(".")
    at = raw
    for step in way:
        at = at[step]
    at[last] = value
    return raw


def test_a_whole_pod_is_read() -> None:
    pod = pod_view(POD)
    assert (pod.namespace, pod.name, pod.uid) == ("lifl", "aggregator-7d9f-x2x4z", "u-1")
    assert (pod.node, pod.phase, pod.scheduler_name) == ("n1", "Running", "lifl-scheduler")
    assert (pod.function, pod.job, pod.seat) == ("aggregator", "digits", "digits-agg-3")
    assert pod.owner == Owner("ReplicaSet", "aggregator-7d9f", "r-1")
    assert (pod.deleting, pod.ready, pod.gates, pod.priority) == (False, True, (), 5)
    assert pod.requests == Resources(250, 64 * 2**20, 0, 1)
    assert pod.node_selector == (("disk", "ssd"), ("zone", "b"))
    assert pod.affinity == (
        Term(
            (Requirement("gpu", "In", ("a", "b")), Requirement("old", "DoesNotExist", ())),
            (Requirement("metadata.name", "In", ("n1",)),),
        ),
    )
    assert pod.tolerations == (
        Toleration("", "Exists", "", ""),
        Toleration("a", "Equal", "b", "NoSchedule"),
    )
    assert pod.host_ports == (("TCP", "", 81), ("UDP", "10.0.0.1", 53))
    assert pod.claims == ("checkpoints", "aggregator-7d9f-x2x4z-scratch")
    assert pod.unsupported == ()
    assert (pod.deletion_cost, pod.ip, pod.created) == (-1000, "10.1.2.3", 1793534400.0)
    assert pod.live
    assert not pod.ended


def test_a_pod_of_which_next_to_nothing_is_said() -> None:
    pod = pod_view({"metadata": {"name": "a", "annotations": None, "labels": None}, "spec": None})
    assert (pod.name, pod.node, pod.phase, pod.created) == ("a", "", "Pending", 0.0)
    assert pod.requests == Resources(pods=1)
    assert pod.affinity is None


@pytest.mark.parametrize(
    ("phase", "deleting", "live", "ended"),
    [
        ("Running", False, True, False),
        ("Pending", False, True, False),
        ("Running", True, False, False),
        ("Succeeded", False, False, True),
        ("Failed", False, False, True),
    ],
)
def test_who_lives(phase: str, deleting: bool, live: bool, ended: bool) -> None:
    raw = changed("status.phase", phase)
    if deleting:
        raw["metadata"]["deletionTimestamp"] = "2026-11-01T12:00:00Z"
    pod = pod_view(raw)
    assert (pod.live, pod.ended, pod.deleting) == (live, ended, deleting)


def test_sidecars_take_host_ports_init_containers_do_not() -> None:
    ports = [{"hostPort": 90}]
    raw = changed(
        "spec.initContainers",
        [{"name": "i", "ports": ports}, {"name": "s", "ports": ports, "restartPolicy": "Always"}],
    )
    assert pod_view(raw).host_ports.count(("TCP", "", 90)) == 1


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("spec.affinity", {"podAffinity": {"required": 1}}, ()),
        (
            "spec.affinity",
            {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}},
            ("required pod affinity",),
        ),
        (
            "spec.affinity",
            {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}},
            ("required pod anti-affinity",),
        ),
        (
            "spec.affinity",
            {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{}]}},
            (),
        ),
        ("spec.topologySpreadConstraints", [{"whenUnsatisfiable": "ScheduleAnyway"}], ()),
        (
            "spec.topologySpreadConstraints",
            [{"whenUnsatisfiable": "DoNotSchedule"}, {"whenUnsatisfiable": "DoNotSchedule"}],
            ("topology spread (DoNotSchedule)",),
        ),
        ("spec.resourceClaims", [{"name": "gpu"}], ("resource claims",)),
    ],
)
def test_hard_conditions_that_are_not_judged_are_noted(
    path: str, value: Any, words: tuple[str, ...]
) -> None:
    assert pod_view(changed(path, value)).unsupported == words


def test_an_annotation_that_is_no_number_is_no_deletion_cost() -> None:
    notes = {"controller.kubernetes.io/pod-deletion-cost": "cheap"}
    assert pod_view(changed("metadata.annotations", notes)).deletion_cost == 0


def test_gates() -> None:
    assert pod_view(changed("spec.schedulingGates", [{"name": "quota"}])).gates == ("quota",)


@pytest.mark.parametrize(
    "raw",
    [
        {"spec": {}},
        {"metadata": {}},
        {
            "metadata": {"name": "a"},
            "spec": {"containers": [{"resources": {"requests": {"cpu": "x"}}}]},
        },
        {"metadata": {"name": "a", "creationTimestamp": "yesterday"}},
    ],
)
def test_an_unreadable_pod_is_refused_as_the_cache_expects(raw: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        pod_view(raw)


def test_a_node_is_read() -> None:
    node = node_object(
        {
            "metadata": {"name": "n1", "labels": {"zone": "b"}},
            "spec": {
                "unschedulable": True,
                "taints": [{"key": "k", "effect": "NoSchedule"}],
            },
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "110", "a/gpu": "1"},
            },
        }
    )
    assert (node.name, node.labels, node.unschedulable, node.ready) == (
        "n1",
        {"zone": "b"},
        True,
        True,
    )
    assert node.taints == (Taint("k", "", "NoSchedule"),)
    assert node.allocatable == Resources(2000, 2**30, 0, 110, (("a/gpu", 1),))


@pytest.mark.parametrize("status", [{}, {"conditions": [{"type": "Ready", "status": "Unknown"}]}])
def test_a_node_that_does_not_say_so_is_not_ready(status: dict[str, Any]) -> None:
    assert not node_object({"metadata": {"name": "n"}, "status": status}).ready


def test_ten_thousand_pods_take_little_memory() -> None:
    text = json.dumps(POD)

    def another(i: int) -> dict[str, Any]:
        raw: dict[str, Any] = json.loads(text)
        raw["metadata"] |= {"name": f"aggregator-7d9f-{i:05}", "uid": f"{i:08}" + "x" * 28}
        raw["metadata"]["annotations"]["lifl.dev/name"] = f"digits-agg-{i}"
        raw["spec"]["nodeName"] = f"node-{i % 1000}"
        raw["spec"]["volumes"] = []
        return raw

    pod_view(another(0))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        pods = [pod_view(another(i)) for i in range(2000)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(pods) == 2000
    assert (after - before) / 2000 < 1000
    print(f"{(after - before) / 2000:.0f} bytes a pod")
