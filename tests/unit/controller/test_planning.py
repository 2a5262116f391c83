"""Measured load, measured capacity and room for aggregators: what nodes say shapes the plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from controller.local_main import sharing_processors
from controller.planning import make_plan
from controller.settings import PolicySettings
from controller.view import JobView, NodeView
from lifl.platform.api import Aggregator
from lifl.topology import Level, Plan

POLICIES = PolicySettings(capacity=20.0, leaves=16)
ALL = replace(POLICIES, capacity=100.0)


def job(expected: int) -> JobView:
    return JobView(
        job="j",
        uid=0,
        round=1,
        assignment=1,
        phase="planning",
        closing=False,
        geometry={},
        fan_in=2,
        timing="eager",
        expected=expected,
        selected=tuple(f"c{i}" for i in range(expected)),
        known=(),
        home=None,
        plan=None,
    )


def plan(expected: int, *nodes: NodeView, policies: PolicySettings = POLICIES) -> Plan:
    return make_plan(job(expected), (), nodes, (), previous=None, policies=policies)


def clients(made: Plan) -> Counter[str]:
    return Counter(made.clients.values())


def test_measured_load_leaves_less_room() -> None:
    nodes = NodeView("a", "1", loads={"k": 12.0, "l": 3.0}), NodeView("b", "1")
    assert clients(plan(20, *nodes)) == {"b": 20}
    assert clients(plan(25, *nodes)) == {"b": 20, "a": 5}
    off = PolicySettings(capacity=20.0, leaves=16, estimate=False)
    assert clients(plan(20, *nodes, policies=off)) == {"a": 20}


def test_what_a_job_did_itself_leaves_its_next_round_where_it_was() -> None:
    warm = [Aggregator("j-agg-0", "j", "a")]

    def again(loads: dict[str, float]) -> Counter[str]:
        nodes = NodeView("a", "1", loads=loads), NodeView("b", "1")
        last = plan(20, nodes[0])
        following = replace(job(20), round=2, assignment=2)
        return clients(make_plan(following, (), nodes, warm, previous=last, policies=POLICIES))

    assert again({"j": 6.4}) == {"a": 20}
    assert again({"j": 6.4, "k": 3.0}) == {"a": 17, "b": 3}


def test_another_job_counts_by_what_it_expects_or_what_was_measured_of_it() -> None:
    def of_other(expected: int, measured: float, phase: str = "open") -> Counter[str]:
        nodes = NodeView("a", "1", loads={"k": measured}), NodeView("b", "1")
        made = replace(plan(expected, nodes[0]), job="k")
        other = replace(job(expected), job="k", phase=phase, plan=made)
        at_home = replace(job(16), home="a")
        return clients(make_plan(at_home, (other,), nodes, (), previous=None, policies=POLICIES))

    assert of_other(4, 3.0) == {"a": 16}
    assert of_other(8, 3.0) == {"a": 12, "b": 4}
    assert of_other(4, 8.0) == {"a": 12, "b": 4}
    assert of_other(8, 8.0, "planning") == {"a": 12, "b": 4}  # its next round is about to open
    assert of_other(8, 8.0, "done") == {"a": 16}


def test_what_fades_of_a_load_opens_no_node() -> None:
    def beside(load: float) -> Counter[str]:
        return clients(plan(20, NodeView("a", "1", loads={"k": load}), NodeView("b", "1")))

    assert beside(0.4) == {"a": 20}
    assert beside(0.6) == {"b": 20}


def test_a_node_takes_what_was_measured_for_it() -> None:
    nodes = NodeView("a", "1", capacity=4.0), NodeView("b", "1", capacity=30.0)
    assert clients(plan(30, *nodes)) == {"b": 30}
    assert clients(plan(34, *nodes)) == {"b": 30, "a": 4}


def test_a_node_has_no_more_leaves_than_it_has_room_for() -> None:
    made = plan(16, NodeView("a", "1", room=5))
    assert len(made.roles) == 4  # the last leaf is the top as well; one is left for a middle
    others = [Aggregator(f"o{i}", "other", "a") for i in range(2)]
    made = make_plan(
        job(16), (), [NodeView("a", "1", room=5)], others, previous=None, policies=POLICIES
    )
    assert len(made.roles) == 2
    alone = replace(POLICIES, reuse=False)
    apart = plan(16, NodeView("a", "1", room=5), policies=alone)
    assert len(apart.entry("a")) == 3
    assert len(apart.roles) == 4
    assert len(plan(16, NodeView("a", "1", room=500)).entry("a")) == 8


def test_a_node_without_room_for_an_aggregator_is_passed_over_if_another_has() -> None:
    full, free = NodeView("a", "1", room=0), NodeView("b", "1")
    assert plan(4, full, free).nodes == ("b",)
    assert plan(4, full).nodes == ("a",)
    assert plan(4, NodeView("b", ""), full).nodes == ("a",)


def test_a_job_stays_where_its_aggregators_are_warm_although_the_coordinator_is_elsewhere() -> None:
    nodes = NodeView("a", "1"), NodeView("b", "1")
    at_home = replace(job(10), home="a")
    warm = [Aggregator(f"j-agg-{i}", "j", "b") for i in range(6)]
    foreign = [Aggregator("o-agg-0", "o", "b")]

    def chosen(running: list[Aggregator], policies: PolicySettings = POLICIES) -> set[str]:
        made = make_plan(at_home, (), nodes, running, previous=None, policies=policies)
        return set(made.clients.values())

    assert chosen([]) == chosen(foreign) == {"a"}
    assert chosen(warm) == {"b"}
    assert chosen(warm, replace(POLICIES, reuse=False)) == {"a"}
    assert chosen([Aggregator("j-agg-0", "j", "lost")]) == {"a"}


def test_a_node_has_two_leaves_for_each_processor_at_most() -> None:
    measured = PolicySettings(capacity=20.0)
    made = plan(16, NodeView("a", "1", processors=3), policies=measured)
    assert len(made.entry("a")) == 6
    assert len(plan(4, NodeView("a", "1", processors=3), policies=measured).entry("a")) == 2
    shared = NodeView("a", "1", processors=0.4)
    assert [r.level for r in plan(16, shared, policies=measured).roles] == [Level.TOP]
    told = PolicySettings(capacity=20.0, leaves=5)
    assert len(plan(16, NodeView("a", "1", processors=3), policies=told).entry("a")) == 5


def leaves(made: Plan) -> int:
    """Return how many aggregators take clients' updates."""
    return sum(own > 0 for own in made.own().values())


def test_a_job_that_names_no_fan_in_has_as_few_leaves_as_keep_up() -> None:
    def of(
        work: float | None, expected: int = 40, policies: PolicySettings = ALL, **job_: str
    ) -> int:
        node = NodeView("a", "1", work={} if work is None else {"j": work, "k": 9.0})
        asked = replace(job(expected), fan_in=None, **job_)
        return leaves(make_plan(asked, (), (node,), (), previous=None, policies=policies))

    assert [of(w) for w in (None, 0.0, 0.3, 0.7, 0.71, 2.0)] == [1, 1, 1, 1, 2, 3]
    assert of(100.0) == 16  # the node's limit
    assert of(100.0, expected=6) == 3  # two updates each at least
    assert of(0.3, timing="lazy") == 16  # all at once, and nobody adds before
    assert of(0.3, policies=replace(ALL, eager=False)) == 16
    assert of(0.3, policies=replace(ALL, hierarchy=False)) == 20
    assert of(0.3, policies=replace(ALL, estimate=False)) == 16
    assert leaves(plan(40, NodeView("a", "1", work={"j": 0.3}), policies=ALL)) == 16  # fan-in 2


def test_each_node_has_as_many_leaves_as_its_own_work_needs() -> None:
    nodes = NodeView("a", "1", work={"j": 2.0}), NodeView("b", "1", work={"j": 0.1})
    asked = replace(job(40), fan_in=None)
    made = make_plan(asked, (), nodes, (), previous=None, policies=POLICIES)
    by_node = Counter(made.role(name).node for name, own in made.own().items() if own)
    assert by_node == {"a": 3, "b": 1}


def test_without_hierarchy_leaves_follow_the_updates_alone() -> None:
    off = PolicySettings(capacity=20.0, hierarchy=False)
    made = plan(32, NodeView("a", "1"), NodeView("b", "1", room=6), policies=off)
    assert (len(made.entry("a")), len(made.entry("b"))) == (10, 4)
    assert not [r for r in made.roles if r.level is Level.MIDDLE]


def test_nodes_of_one_machine_share_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(7)))
    views = [NodeView("a", "1"), NodeView("b", "1"), NodeView("c", "1")]
    assert [v.processors for v in sharing_processors(views)] == [7 / 3] * 3
    assert sharing_processors([]) == []
