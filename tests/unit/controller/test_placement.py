from __future__ import annotations

import itertools
import random
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.plan.placement import Bin, Placement, Policy, place

bins_lists = st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=0, max_size=8).map(
    lambda rows: [Bin(f"n{i}", float(c), used) for i, (c, used) in enumerate(rows)]
)
sizes_lists = st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0]), max_size=60)
policies = st.sampled_from(list(Policy))


def used_after(placement: Placement, bins: list[Bin]) -> int:
    return len({b.node for b in bins if b.in_use} | placement.counts.keys())


@given(sizes_lists, bins_lists, policies)
def test_never_over_capacity_and_nothing_lost(
    sizes: list[float], bins: list[Bin], policy: Policy
) -> None:
    placed = place(sizes, bins, policy)
    assert len(placed.nodes) == len(sizes)
    for b in bins:
        total = sum(s for s, n in zip(sizes, placed.nodes, strict=True) if n == b.node)
        assert total <= b.capacity
        assert placed.left[b.node] == pytest.approx(b.capacity - total)
    assert sum(placed.counts.values()) + placed.unplaced == len(sizes)


@given(sizes_lists, bins_lists, policies)
def test_no_update_is_left_out_while_a_node_has_room_for_it(
    sizes: list[float], bins: list[Bin], policy: Policy
) -> None:
    placed = place(sizes, bins, policy)
    roomiest = max(placed.left.values(), default=0.0)
    for size, node in zip(sizes, placed.nodes, strict=True):
        assert node is not None or size > roomiest


@given(st.integers(0, 120), bins_lists)
def test_equal_updates_bestfit_uses_no_more_nodes_than_the_spread(
    number: int, bins: list[Bin]
) -> None:
    best, worst = (
        place(itertools.repeat(1.0, number), bins, p) for p in (Policy.BEST_FIT, Policy.WORST_FIT)
    )
    assert used_after(best, bins) <= used_after(worst, bins)
    assert best.unplaced == worst.unplaced


def test_mixed_sizes_bestfit_uses_no_more_nodes_in_the_median() -> None:
    rng = random.Random(7)
    more = []
    for _ in range(200):
        bins = [Bin(f"n{i}", rng.uniform(5, 20)) for i in range(20)]
        sizes = [rng.choice([0.5, 1.0, 2.0, 3.0]) for _ in range(60)]
        best, worst = (
            used_after(place(sizes, bins, p), bins) for p in (Policy.BEST_FIT, Policy.WORST_FIT)
        )
        more.append(best - worst)
    assert statistics.median(more) <= 0


@given(sizes_lists, bins_lists, policies)
def test_placing_again_gives_the_same(sizes: list[float], bins: list[Bin], policy: Policy) -> None:
    assert place(sizes, bins, policy) == place(sizes, bins, policy)


def naive(sizes: list[float], bins: list[Bin], policy: Policy) -> list[str | None]:
    """The rules one update at a time, as their definitions read."""
    left = {b.node: b.capacity for b in bins}
    used = {b.node for b in bins if b.in_use}
    order = {b.node: i for i, b in enumerate(bins)}
    out: list[str | None] = []
    for size in sizes:
        fits = [n for n in left if left[n] >= size]
        in_use = [n for n in fits if n in used]
        choice: Any = None
        if fits and policy is Policy.FIRST_FIT:
            choice = fits[0]
        elif fits and policy is Policy.WORST_FIT:
            choice = min(fits, key=lambda n: (-left[n], order[n]))
        elif in_use:
            choice = min(in_use, key=lambda n: (left[n], order[n]))
        elif fits:
            choice = min(fits, key=lambda n: (-left[n], order[n]))
        if choice is not None:
            left[choice] -= size
            used.add(choice)
        out.append(choice)
    return out


@given(sizes_lists, bins_lists, policies)
def test_runs_placed_at_once_equal_one_at_a_time(
    sizes: list[float], bins: list[Bin], policy: Policy
) -> None:
    assert list(place(sizes, bins, policy).nodes) == naive(sizes, bins, policy)


def test_bestfit_fills_the_tightest_node_in_use_then_opens_the_roomiest() -> None:
    bins = [Bin("a", 5, in_use=True), Bin("b", 2, in_use=True), Bin("c", 9), Bin("d", 20)]
    placed = place(itertools.repeat(1.0, 9), bins, Policy.BEST_FIT)
    assert placed.counts == {"b": 2, "a": 5, "d": 2}


@pytest.mark.parametrize(
    ("sizes", "bins", "word"),
    [
        ([1.0], [Bin("a", 1), Bin("a", 1)], "twice"),
        ([1.0], [Bin("a", -1)], "negative"),
        ([0.0], [Bin("a", 1)], "positive"),
    ],
)
def test_wrong_input_is_refused(sizes: list[float], bins: list[Bin], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        place(sizes, bins, Policy.BEST_FIT)
