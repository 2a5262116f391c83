"""A node's room for aggregators: its CPUs, what others leave, and whether it takes any."""

from __future__ import annotations

from dataclasses import replace

from controller.cluster.objects import NodeObject, PodView
from controller.cluster.resources import Resources
from controller.cluster.rooms import aggregators, processors

NODE = NodeObject("n", {}, (), False, True, Resources(cpu=4000, memory=8 << 30, pods=110))
OTHER = PodView("x", "o", "u0", node="n", requests=Resources(cpu=3500, memory=1 << 30, pods=1))
AGGREGATOR = PodView(
    "x",
    "a",
    "u1",
    node="n",
    function="aggregator",
    requests=Resources(cpu=250, memory=1 << 30, pods=1),
)


def room(node: NodeObject, *pods: PodView, full: tuple[str, ...] = ()) -> int:
    return aggregators([node], pods, full=full)["n"]


def test_a_node_has_whole_processors_and_at_least_one() -> None:
    assert processors(NODE) == 4
    assert processors(replace(NODE, allocatable=Resources(cpu=2900))) == 2
    assert processors(replace(NODE, allocatable=Resources(cpu=400))) == 1


def test_an_empty_node_has_eight_a_cpu() -> None:
    assert room(NODE) == 32


def test_what_others_ask_for_is_not_there_and_aggregators_do_not_count() -> None:
    assert room(NODE, OTHER) == 5
    assert room(NODE, OTHER, AGGREGATOR, replace(AGGREGATOR, uid="u2")) == 2
    assert room(NODE, replace(OTHER, phase="Succeeded")) == 32
    assert room(NODE, replace(OTHER, requests=Resources(cpu=9000, pods=1))) == 0


def test_memory_and_the_number_of_pods_bound_too() -> None:
    assert room(NODE, AGGREGATOR) == 8
    assert room(replace(NODE, allocatable=Resources(cpu=4000, memory=8 << 30, pods=3))) == 3


def test_where_nothing_new_can_run_what_runs_may_go_on() -> None:
    assert room(replace(NODE, ready=False)) == 0
    assert room(replace(NODE, unschedulable=True), AGGREGATOR) == 1
    assert room(NODE, full=("n",)) == 0
