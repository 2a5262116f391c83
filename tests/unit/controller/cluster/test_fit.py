from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.fit import Used, clash, matches, misfits, summary, tolerates
from controller.cluster.objects import (
    NodeObject,
    PodView,
    Requirement,
    Taint,
    Term,
    Toleration,
    node_terms,
)
from controller.cluster.resources import Resources

NODE = NodeObject(
    "n1", {"zone": "b", "cores": "8"}, (), False, True, Resources(2000, 1000, 100, 10)
)
POD = PodView("lifl", "a", "u-a")


def why(pod: PodView = POD, node: NodeObject = NODE, used: Used | None = None) -> list[str]:
    return misfits(pod, node, used or Used())


def tainted(*taints: Taint) -> NodeObject:
    return replace(NODE, taints=taints)


def test_a_pod_that_asks_for_nothing_fits() -> None:
    assert why() == []


# -- readiness and taints ------------------------------------------------------------


def test_cordoned_and_unready_nodes() -> None:
    assert why(node=replace(NODE, unschedulable=True)) == ["node(s) were unschedulable"]
    assert why(node=replace(NODE, ready=False)) == ["node is not ready"]


@pytest.mark.parametrize("word", ["unschedulable", "not-ready"])
def test_who_tolerates_such_a_node_goes_there(word: str) -> None:
    pod = replace(
        POD, tolerations=(Toleration(f"node.kubernetes.io/{word}", "Exists", "", "NoSchedule"),)
    )
    node = replace(NODE, unschedulable=word == "unschedulable", ready=word != "not-ready")
    assert why(pod, node) == []


def test_the_tolerations_that_every_pod_gets_do_not_cover_an_unready_node() -> None:
    usual = Toleration("node.kubernetes.io/not-ready", "Exists", "", "NoExecute")
    assert why(replace(POD, tolerations=(usual,)), replace(NODE, ready=False))


@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_a_taint_keeps_pods_off(effect: str) -> None:
    node = tainted(Taint("a", "b", "PreferNoSchedule"), Taint("dedicated", "gpu", effect))
    assert why(node=node) == ["node(s) had untolerated taint {dedicated: gpu}"]


def test_a_preference_is_no_obstacle() -> None:
    assert why(node=tainted(Taint("a", "b", "PreferNoSchedule"))) == []


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        (Toleration("k", "Equal", "v", "NoSchedule"), True),
        (Toleration("k", "Equal", "v", ""), True),
        (Toleration("k", "Equal", "w", ""), False),
        (Toleration("k", "Equal", "v", "NoExecute"), False),
        (Toleration("k", "Exists", "", ""), True),
        (Toleration("k", "Exists", "", "NoExecute"), False),
        (Toleration("l", "Exists", "", ""), False),
        (Toleration("", "Exists", "", ""), True),
        (Toleration("", "Exists", "", "NoSchedule"), True),
        (Toleration("", "Exists", "", "NoExecute"), False),
        (Toleration("k", "Like", "v", ""), False),
    ],
)
def test_tolerations(toleration: Toleration, covers: bool) -> None:
    assert tolerates([toleration], Taint("k", "v", "NoSchedule")) == covers


def test_each_taint_needs_a_toleration() -> None:
    node = tainted(Taint("a", "", "NoSchedule"), Taint("b", "", "NoSchedule"))
    a, b = (Toleration(k, "Exists", "", "") for k in "ab")
    assert why(replace(POD, tolerations=(a,)), node) == [
        "node(s) had untolerated taint {b: }",
    ]
    assert why(replace(POD, tolerations=(a, b)), node) == []


# -- selector and affinity -----------------------------------------------------------

AWAY = ["node(s) didn't match Pod's node affinity/selector"]


@pytest.mark.parametrize(
    ("selector", "reasons"),
    [
        ((("zone", "b"),), []),
        ((("zone", "c"),), AWAY),
        ((("zone", "b"), ("disk", "ssd")), AWAY),
    ],
)
def test_node_selector(selector: Any, reasons: list[str]) -> None:
    assert why(replace(POD, node_selector=selector)) == reasons


def term(*labels: tuple[str, str, tuple[str, ...]], fields: Any = ()) -> Term:
    return Term(
        tuple(Requirement(*one) for one in labels), tuple(Requirement(*one) for one in fields)
    )


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (("zone", "In", ("a", "b")), True),
        (("zone", "In", ("a",)), False),
        (("disk", "In", ("",)), False),
        (("zone", "NotIn", ("a",)), True),
        (("zone", "NotIn", ("b",)), False),
        (("disk", "NotIn", ("ssd",)), True),
        (("zone", "Exists", ()), True),
        (("disk", "Exists", ()), False),
        (("zone", "DoesNotExist", ()), False),
        (("disk", "DoesNotExist", ()), True),
        (("cores", "Gt", ("7",)), True),
        (("cores", "Gt", ("8",)), False),
        (("cores", "Lt", ("9",)), True),
        (("cores", "Lt", ("8",)), False),
        (("cores", "Gt", ("-1",)), True),
        (("cores", "Gt", ("1", "2")), False),
        (("zone", "Gt", ("1",)), False),
        (("disk", "Lt", ("1",)), False),
        (("cores", "Gt", ("four",)), False),
        (("zone", "Like", ("b",)), False),
    ],
)
def test_conditions_on_labels(condition: Any, holds: bool) -> None:
    assert matches([term(condition)], NODE) == holds


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (("metadata.name", "In", ("n1",)), True),
        (("metadata.name", "In", ("n2",)), False),
        (("metadata.name", "NotIn", ("n2",)), True),
        (("metadata.name", "NotIn", ("n1",)), False),
        (("metadata.name", "Exists", ()), False),
        (("spec.unschedulable", "NotIn", ("x",)), False),
    ],
)
def test_conditions_on_fields(condition: Any, holds: bool) -> None:
    assert matches([term(fields=[condition])], NODE) == holds


def test_terms_are_alternatives_conditions_are_not() -> None:
    good, bad = ("zone", "In", ("b",)), ("zone", "In", ("c",))
    assert matches([term(bad), term(good)], NODE)
    assert not matches([term(good, bad)], NODE)
    assert not matches([term(good, fields=[("metadata.name", "In", ("n2",))])], NODE)


def test_an_empty_term_or_list_of_terms_matches_nothing() -> None:
    assert not matches([term()], NODE)
    assert why(replace(POD, affinity=())) == AWAY


def test_selector_and_affinity_must_both_hold() -> None:
    there, away = (term(("zone", "In", (z,))) for z in "bc")
    pod = replace(POD, node_selector=(("zone", "b"),))
    assert why(replace(pod, affinity=(there,))) == []
    assert why(replace(pod, affinity=(away,))) == AWAY


def test_a_volume_is_where_it_is() -> None:
    here, there = (
        node_terms(
            {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}
                ]
            }
        )
        for zone in "bc"
    )
    assert here
    assert there
    assert misfits(POD, NODE, Used(), [here]) == []
    assert misfits(POD, NODE, Used(), [here, there]) == [
        "node(s) had volume node affinity conflict"
    ]


# -- ports and room ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (("TCP", "", 80), ("TCP", "", 80), True),
        (("TCP", "", 80), ("UDP", "", 80), False),
        (("TCP", "", 80), ("TCP", "", 81), False),
        (("TCP", "10.0.0.1", 80), ("TCP", "10.0.0.2", 80), False),
        (("TCP", "10.0.0.1", 80), ("TCP", "10.0.0.1", 80), True),
        (("TCP", "10.0.0.1", 80), ("TCP", "", 80), True),
    ],
)
def test_ports_clash(one: Any, two: Any, expected: bool) -> None:
    assert clash(one, two) == clash(two, one) == expected


def test_a_taken_host_port() -> None:
    pod = replace(POD, host_ports=(("TCP", "", 80),))
    used = Used()
    assert why(pod, used=used) == []
    used.add(pod)
    assert why(pod, used=used) == ["host port in use"]


def test_everything_that_lacks_is_told() -> None:
    pod = replace(POD, requests=Resources(3000, 2000, 200, 1, (("gpu", 1),)))
    assert why(pod) == [
        "Insufficient cpu",
        "Insufficient memory",
        "Insufficient ephemeral-storage",
        "Insufficient gpu",
    ]


def test_the_number_of_pods_counts() -> None:
    used = Used()
    for _ in range(10):
        assert why(used=used) == []
        used.add(POD)
    assert why(used=used) == ["Too many pods"]


asks = st.builds(
    Resources,
    st.sampled_from([0, 10, 60]),
    st.sampled_from([0, 10, 60]),
    st.sampled_from([0, 10, 60]),
    st.just(1),
    st.sampled_from([(), (("gpu", 1),)]),
)


@given(st.lists(asks, max_size=4), asks)
def test_room_is_what_resources_say(there: list[Resources], asked: Resources) -> None:
    node = replace(NODE, allocatable=Resources(100, 100, 100, 4, (("gpu", 1),)))
    used, total = Used(), Resources()
    for one in there:
        used.add(replace(POD, requests=one))
        total += one
    left = node.allocatable - total
    assert why(replace(POD, requests=asked), node, used) == asked.lacking(left)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Resources(ephemeral=101, pods=1), "Insufficient ephemeral-storage"),
        (Resources(pods=1, other=(("gpu", 1),)), "Insufficient gpu"),
    ],
)
def test_what_few_pods_ask_for_is_looked_at_too(asked: Resources, reason: str) -> None:
    assert why(replace(POD, requests=asked)) == [reason]


def test_a_summary_reads_as_kube_scheduler_s() -> None:
    words = summary(
        4, {"node(s) had untolerated taint {a: b}": 1, "Insufficient cpu": 2, "Too many pods": 1}
    )
    assert words == (
        "0/4 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint {a: b}, "
        "2 Insufficient cpu."
    )
    assert summary(0, {}) == "0/0 nodes are available: there are none."
