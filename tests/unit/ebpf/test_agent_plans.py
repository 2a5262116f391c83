from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.agent.plans import (
    IDLE,
    NOWHERE,
    Member,
    Route,
    View,
    in_turn,
    reserve_for_outputs,
    unplanned,
)
from lifl.topology import Level, Plan, Role, Timing
from lifl.wire import MAX_MEMBERS, Kind, RouteType, Share

GATEWAY = Member(1, Kind.GATEWAY, "gateway-0", 0, True)
COORDINATOR = Member(2, Kind.COORDINATOR, "coordinator", 1, True)
LEAF = Member(11, Kind.AGGREGATOR, "leaf", 64, True)
OTHER = Member(12, Kind.AGGREGATOR, "other", 65, True)
TOP = Member(13, Kind.AGGREGATOR, "top", 66, True)
SPARE = Member(14, Kind.AGGREGATOR, "spare", 67, True)
HERE = [GATEWAY, COORDINATOR, LEAF, OTHER, TOP, SPARE]
GROUP = 5


def plan(*roles: tuple[str, str, str | None], timing: Timing = Timing.EAGER) -> Plan:
    children = Counter(parent for _, _, parent in roles)
    return Plan(
        "job",
        7,
        3,
        timing,
        tuple(
            Role(
                name,
                node,
                Level.TOP if parent is None else Level.LEAF,
                children[name] or 4,
                parent,
            )
            for name, node, parent in roles
        ),
    )


TREE = plan(("leaf", "a", "top"), ("other", "a", "top"), ("far", "b", "top"), ("top", "a", None))


def view(p: Plan = TREE, node: str = "a", members: Sequence[Member] = HERE, here: bool = True):
    return View(p, node, members, coordinator_here=here)


def to(endpoint: int) -> Route:
    return Route(RouteType.ENDPOINT, endpoint)


def test_the_wiring_of_the_coordinators_node():
    wiring = view().wiring(GROUP)
    assert wiring.cycle == view().plan.assignment
    assert wiring.group == (Share(11, 4), Share(12, 4))  # one is filled before the next gets any
    assert wiring.routes == {
        1: Route(RouteType.GROUP, GROUP),
        2: NOWHERE,
        11: to(13),
        12: to(13),
        13: to(2),
        14: to(13),  # what an idle one still holds goes to the top
    }
    row = wiring.rows[64]
    assert (row.assignment, row.epoch, row.goal, row.timing) == (7, 3, 4, 0)
    assert (row.final, row.parent_remote) == (False, False)
    assert wiring.rows[66].final
    assert wiring.rows[67] == IDLE


def test_who_sums_partials_and_updates_is_filled_last():
    roles = (
        Role("top", "a", Level.TOP, 3 + 2, None),
        Role("leaf", "a", Level.LEAF, 4, "top"),
        Role("other", "a", Level.LEAF, 4, "top"),
        Role("far", "b", Level.LEAF, 4, "top"),
    )
    wiring = view(Plan("job", 7, 3, Timing.EAGER, roles)).wiring(GROUP)
    assert wiring.group == (Share(11, 4), Share(12, 4), Share(13, 2))
    assert wiring.rows[66].goal == 14  # what its sum covers
    assert view(Plan("job", 7, 3, Timing.EAGER, roles), "b").entry == []


def test_a_parent_on_another_node_is_reached_through_the_gateway():
    far = Member(21, Kind.AGGREGATOR, "far", 64, True)
    wiring = view(node="b", members=[GATEWAY, far], here=False).wiring(GROUP)
    assert wiring.routes[21] == to(1)
    assert wiring.rows[64].parent_remote
    assert wiring.group == (Share(21, 4),)


def test_a_top_away_from_the_coordinator_sends_through_the_gateway():
    wiring = view(plan(("top", "a", None)), members=[GATEWAY, TOP], here=False).wiring(GROUP)
    assert wiring.routes[13] == to(1)
    assert wiring.rows[66].parent_remote
    assert wiring.group == (Share(13, 4),)  # the only aggregator takes the updates


def test_a_coordinator_that_is_being_restarted_is_not_replaced_by_the_gateway():
    wiring = view(members=[GATEWAY, TOP]).wiring(GROUP)
    assert wiring.routes[13] == NOWHERE
    assert not wiring.rows[66].parent_remote


def test_members_that_are_not_ready_or_not_there_are_left_out():
    v = view(members=[GATEWAY, COORDINATOR, LEAF, OTHER._replace(ready=False)])
    assert v.entry == [11]
    assert v.missing == ["top"]
    assert v.wiring(GROUP).routes[11] == NOWHERE


def test_a_node_without_roles_routes_nothing():
    wiring = view(node="c").wiring(GROUP)
    assert wiring.group == ()
    assert wiring.routes[1] == NOWHERE


def test_lazy_is_told():
    lazy = plan(("top", "a", None), timing=Timing.LAZY)
    assert view(lazy).wiring(GROUP).rows[66].timing == 1


@pytest.mark.parametrize(
    ("owner", "name", "mean", "target"),
    [
        (11, None, False, 13),  # its next hop
        (13, None, True, 2),  # the mean
        (99, "leaf", False, 13),  # gone, but its role is known
        (99, None, False, 13),  # gone and forgotten: the top of the node
        (14, None, False, 13),  # has no role any more
        (1, None, False, 13),  # came from another node
        (99, None, True, 2),
        (1, None, True, 2),  # the mean of a top on another node
    ],
)
def test_where_a_partial_goes(owner, name, mean, target):
    assert view().partial_target(owner, name, mean=mean) == target


def test_a_partial_waits_for_a_parent_that_is_not_there():
    members = [GATEWAY, COORDINATOR, LEAF]
    assert view(members=members).partial_target(11, None, mean=False) is None


def test_descendants_are_those_of_the_node():
    assert set(view().descendants(13)) == {11, 12}
    assert set(view().descendants(11)) == set()
    assert set(view().descendants(14)) == set()


def test_a_domain_without_a_plan_is_idle():
    wiring = unplanned(HERE)
    assert wiring.group == ()
    assert set(wiring.routes.values()) == {NOWHERE}
    assert set(wiring.rows) == {64, 65, 66, 67}
    assert set(wiring.rows.values()) == {IDLE}


@given(st.integers(0, 1000), st.integers(1, 65535))
def test_outputs_never_take_more_than_half_the_pool(roles, slots):
    kept = reserve_for_outputs(roles, slots)
    assert 0 <= kept <= slots // 2
    assert kept == min(2 * roles + 2, slots // 2)


@given(st.lists(st.integers(0, 100_000), max_size=80))
def test_a_group_s_members_get_what_they_expect_in_a_row(goals: list[int]):
    members = in_turn(list(enumerate(goals)))
    assert [m.endpoint for m in members] == list(range(min(len(goals), MAX_MEMBERS)))
    assert [m.run for m in members] == [min(max(g, 1), 65535) for g in goals[:MAX_MEMBERS]]
