"""The aggregation plan as data."""

from __future__ import annotations

import json

import pytest

from lifl.errors import ConfigError
from lifl.topology import Level, Plan, Role, Timing


def plan(*roles: Role) -> Plan:
    return Plan("digits", 4, 1, Timing.EAGER, roles, {"c1": "node-0"})


LEAVES = (
    Role("a", "node-0", Level.LEAF, 2, "top"),
    Role("b", "node-1", Level.LEAF, 2, "mid"),
    Role("c", "node-1", Level.LEAF, 2, "mid"),
)
TREE = plan(
    *LEAVES,
    Role("mid", "node-1", Level.MIDDLE, 2, "top"),
    Role("top", "node-0", Level.TOP, 2),
)


def test_a_tree_knows_its_shape() -> None:
    assert TREE.top.name == "top"
    assert TREE.levels == 3
    assert TREE.nodes == ("node-0", "node-1")
    assert [r.name for r in TREE.entry("node-1")] == ["b", "c"]
    assert [r.name for r in TREE.children("mid")] == ["b", "c"]


def test_a_lone_top_takes_the_updates_itself() -> None:
    lone = plan(Role("top", "node-0", Level.TOP, 3))
    assert lone.levels == 1
    assert [r.name for r in lone.entry("node-0")] == ["top"]


def test_every_output_should_cover_the_updates_below_it() -> None:
    assert TREE.expected() == {"a": 2, "b": 2, "c": 2, "mid": 4, "top": 6}
    own = plan(Role("leaf", "node-1", Level.LEAF, 3, "top"), Role("top", "node-0", Level.TOP, 5))
    assert own.expected() == {"leaf": 3, "top": 7}


def test_a_plan_survives_json() -> None:
    assert Plan.from_json(json.loads(json.dumps(TREE.to_json()))) == TREE


@pytest.mark.parametrize(
    "roles",
    [
        (Role("a", "n", Level.LEAF, 1, "nobody"), Role("t", "n", Level.TOP, 1)),
        (Role("t", "n", Level.TOP, 1), Role("u", "n", Level.TOP, 1)),
        (Role("t", "n", Level.TOP, 1), Role("t", "m", Level.LEAF, 1, "t")),
        (Role("t", "n", Level.TOP, 0),),
        (
            Role("t", "n", Level.TOP, 1),
            Role("a", "n", Level.LEAF, 1, "b"),
            Role("b", "n", Level.LEAF, 1, "a"),
        ),
    ],
    ids=["unknown parent", "two tops", "two roles", "no goal", "loop"],
)
def test_a_plan_that_cannot_work_is_refused(roles: tuple[Role, ...]) -> None:
    with pytest.raises(ConfigError):
        plan(*roles)
