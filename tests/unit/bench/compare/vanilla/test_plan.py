from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare.vanilla.plan import plan

small = st.integers(1, 120)


@given(small, st.integers(1, 8), st.integers(1, 5))
def test_every_update_has_a_leaf_that_waits_for_it(updates, nodes, fan_in):
    parts = plan(7, updates, nodes, fan_in)
    sums = Counter(p.subject for p in parts)
    assert len(parts) == updates
    assert all(sums[p.subject] == p.goal <= fan_in for p in parts)
    assert {p.subject.leaves for p in parts} == {len(sums)}
    assert {p.subject.round for p in parts} == {7}


@given(small, st.integers(1, 8), st.integers(1, 5))
def test_updates_are_spread_evenly_over_all_nodes(updates, nodes, fan_in):
    at = Counter(p.subject.node for p in plan(1, updates, nodes, fan_in))
    assert len(at) == min(nodes, updates)
    assert max(at.values()) - min(at.values()) <= 1
    leaves = {p.subject for p in plan(1, updates, nodes, fan_in)}
    assert len(leaves) == sum(-(-n // fan_in) for n in at.values())


def test_nothing_cannot_be_planned():
    with pytest.raises(ValueError, match="at least one update"):
        plan(1, 0, 5, 2)
