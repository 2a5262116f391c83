from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.plan.hierarchy import (
    UTILIZATION,
    Place,
    leaves_for,
    leaves_that_keep_up,
    shape,
)
from controller.plan.reuse import Warm, cast
from lifl.topology import Level, Plan, Timing

counts_maps = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 40), max_size=4)


def tree(
    counts: dict[str, int], fan_in: int = 2, limit: int = 100, *, promote: bool = False
) -> tuple[Place, ...]:
    limits = dict.fromkeys(counts, limit)
    return shape(counts, fan_in=fan_in, limits=limits, home="a", promote=promote)


def levels(places: tuple[Place, ...], node: str) -> Counter[Level]:
    return Counter(p.level for p in places if p.node == node)


def test_one_node_has_leaves_and_a_top_and_no_middle() -> None:
    places = tree({"a": 10})
    assert levels(places, "a") == {Level.TOP: 1, Level.LEAF: 5}
    assert [p.goal for p in places] == [5, 2, 2, 2, 2, 2]


def test_one_node_that_needs_one_leaf_has_the_top_alone() -> None:
    assert tree({"a": 2}) == (Place("a", Level.TOP, 2, None),)


def test_several_nodes_have_a_middle_each_unless_they_have_one_leaf() -> None:
    places = tree({"a": 4, "b": 6, "c": 2})
    assert levels(places, "a") == {Level.MIDDLE: 1, Level.LEAF: 2}
    assert levels(places, "b") == {Level.TOP: 1, Level.MIDDLE: 1, Level.LEAF: 3}
    assert levels(places, "c") == {Level.LEAF: 1}
    top = places[0]
    assert (top.node, top.goal) == ("b", 3)
    lone = next(p for p in places if p.node == "c")
    assert lone.parent == 0


def test_the_last_leaf_is_the_top_as_well() -> None:
    places = tree({"a": 9}, promote=True)
    assert [(p.level, p.goal, p.parent) for p in places] == [
        (Level.TOP, 1 + 4, None),  # one update, four partial sums
        *[(Level.LEAF, 2, 0)] * 4,
    ]
    assert tree({"a": 2}, promote=True) == tree({"a": 2})


def test_the_last_leaf_of_each_of_several_nodes_is_its_middle_as_well() -> None:
    places = tree({"a": 4, "b": 6, "c": 2}, promote=True)
    assert levels(places, "a") == {Level.MIDDLE: 1, Level.LEAF: 1}
    assert levels(places, "b") == {Level.TOP: 1, Level.MIDDLE: 1, Level.LEAF: 2}
    assert levels(places, "c") == {Level.LEAF: 1}
    assert (places[0].node, places[0].goal) == ("b", 3)
    goals = {p.node: p.goal for p in places if p.level is Level.MIDDLE}
    assert goals == {"a": 2 + 1, "b": 2 + 2}


def test_among_equals_the_top_is_at_home() -> None:
    assert shape({"b": 3, "a": 3}, fan_in=2, limits={"a": 9, "b": 9}, home="b")[0].node == "b"
    assert shape({"b": 3, "a": 3}, fan_in=2, limits={"a": 9, "b": 9}, home=None)[0].node == "a"


def test_without_hierarchy_every_leaf_sends_to_the_top() -> None:
    flat = shape({"a": 9, "b": 6}, fan_in=2, limits={"a": 9, "b": 9}, hierarchical=False)
    assert levels(flat, "a") == {Level.TOP: 1, Level.LEAF: 5}
    assert levels(flat, "b") == {Level.LEAF: 3}
    assert flat[0].goal == 8
    assert {p.parent for p in flat[1:]} == {0}


@given(st.integers(0, 500), st.integers(1, 20), st.integers(1, 50))
def test_leaves_are_the_rounded_up_quotient_within_the_limit(
    updates: int, fan_in: int, limit: int
) -> None:
    n = leaves_for(updates, fan_in, limit)
    assert n <= limit
    assert n * fan_in >= updates or n == limit
    assert (n - 1) * fan_in < updates or n == 0


@given(st.floats(0, 1e6))
def test_leaves_that_keep_up_have_time_left_and_none_is_superfluous(work: float) -> None:
    n = leaves_that_keep_up(work)
    assert n >= 1
    assert work <= n * UTILIZATION * (1 + 1e-9)
    assert n == 1 or work > (n - 1) * UTILIZATION * (1 - 1e-9)


def test_work_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        leaves_that_keep_up(-0.1)


def test_a_fan_in_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        leaves_for(1, 0, 1)


@given(counts_maps, st.integers(1, 8), st.integers(1, 6), st.booleans())
def test_every_tree_is_a_valid_plan_that_expects_every_update(
    counts: dict[str, int], fan_in: int, limit: int, promote: bool
) -> None:
    places = tree(counts, fan_in, limit, promote=promote)
    roles = cast(places, [], lambda k: f"x-{k}").roles
    plan = Plan("j", 1, 1, Timing.EAGER, roles)
    own = plan.own()
    for node, n in counts.items():
        entry = plan.entry(node) if n else ()
        assert sum(own[r.name] for r in entry) == n
        above = [r.level is not Level.LEAF for r in entry]
        assert above == sorted(above)  # who sums partials too is filled last
        assert len(entry) == leaves_for(n, fan_in, limit)
        assert len({r.name for r in plan.on(node) if r.level is Level.MIDDLE}) <= 1
    for role in plan.roles:
        children = list(plan.children(role.name))
        assert role.goal == len(children) + own[role.name]
        assert promote or not (children and own[role.name])
    if any(counts.values()):
        assert plan.expected()[plan.top.name] == sum(counts.values())
    if any(counts.values()):
        most = max(counts.values())
        assert counts[plan.top.node] == most
        assert plan.levels <= 3


warm_sets = st.dictionaries(
    st.integers(0, 30).map(lambda k: f"x-{k}"),
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([None, *Level])),
    max_size=20,
).map(lambda d: [Warm(name, node, level) for name, (node, level) in d.items()])


@given(counts_maps, warm_sets)
def test_nothing_is_started_while_an_idle_one_exists_on_the_node(
    counts: dict[str, int], warm: list[Warm]
) -> None:
    places = tree(counts)
    outcome = cast(places, warm, lambda k: f"x-{k}")
    named = {r.name for r in outcome.roles}
    started = {r.node for r in outcome.roles if r.name in outcome.start}
    assert all(w.name in named for w in warm if w.node in started)
    known = {w.name: w.node for w in warm}
    assert all(known[r.name] == r.node for r in outcome.roles if r.name in known)
    assert not set(outcome.start) & known.keys()


@given(counts_maps, warm_sets)
def test_casting_again_with_the_outcome_running_changes_nothing(
    counts: dict[str, int], warm: list[Warm]
) -> None:
    places = tree(counts)
    first = cast(places, warm, lambda k: f"x-{k}")
    cast_levels = {r.name: r.level for r in first.roles}
    now = [Warm(w.name, w.node, cast_levels.get(w.name, w.level)) for w in warm]
    busy = [Warm(r.name, r.node, r.level) for r in first.roles if r.name in first.start]
    running = [w for w in now if w.name in cast_levels] + busy
    second = cast(places, running, lambda k: f"x-{k}")
    assert {(r.name, r.level) for r in second.roles} == {(r.name, r.level) for r in first.roles}
    assert second.start == ()


def test_a_role_change_takes_the_warm_one() -> None:
    warm = [Warm("x-4", "a", Level.LEAF)]
    outcome = cast(tree({"a": 1}), warm, lambda k: f"x-{k}")
    assert outcome.roles[0].name == "x-4"
    assert outcome.roles[0].level is Level.TOP
    assert outcome.start == ()


def test_without_reuse_all_are_new() -> None:
    warm = [Warm("x-0", "a", Level.TOP)]
    outcome = cast(tree({"a": 1}), warm, lambda k: f"x-{k}", reuse=False)
    assert outcome.start == ("x-1",)
