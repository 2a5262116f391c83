from __future__ import annotations

import pytest

from bench.compare.serverful.system import goals


@pytest.mark.parametrize(
    ("updates", "expected"),
    [(1, [1]), (2, [2]), (3, [2, 1]), (8, [2] * 4), (9, [2, 2, 2, 2, 1])],
)
def test_leaves_have_two_updates_each_and_the_last_what_is_left(updates, expected):
    assert goals(updates) == expected


@pytest.mark.parametrize("updates", range(1, 101))
def test_every_update_has_a_leaf(updates):
    plan = goals(updates)
    assert sum(plan) == updates
    assert len(plan) == -(-updates // 2)


def test_without_a_tree_one_aggregator_takes_all():
    assert goals(8, 8) == [8]
    assert goals(5, 8) == [5]
