"""Eager = lazy = flat reference mean: 1 to 200 clients, any tree, any order, any goal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.aggregator.blas import NumpyKernel
from functions.aggregator.machine import COMPACT_INPUTS
from lifl.store import RoleRow, SlotState
from lifl.update import Schema

EAGER, LAZY = 0, 1
SCHEMA = Schema.of({"w": np.zeros(40, np.float32), "steps": np.zeros(1, np.int64)})


def model(rng) -> dict[str, np.ndarray]:
    return {
        "w": rng.standard_normal(40).astype(np.float32),
        "steps": rng.integers(0, 1 << 40, 1),
    }


def grow(rng, clients: int) -> tuple[list[int], list[int | None]]:
    """Return a random tree: each client's leaf, each aggregator's parent (None: the top)."""
    fan_in = int(rng.integers(1, 9))
    leaves = -(-clients // fan_in)
    leaf_of = [int(rng.integers(leaves)) for _ in range(clients)]
    parents: list[int | None] = [None] * leaves
    level = list(range(leaves))
    while len(level) > 1:
        width = int(rng.integers(1, max(2, len(level))))
        above = [len(parents) + i for i in range(width)]
        parents += [None] * width
        for child in level:
            parents[child] = above[int(rng.integers(width))]
        level = above
    if len(parents) == 1 and rng.random() < 0.5:  # a middle above a lone leaf
        parents = [1, None]
    return leaf_of, parents


def run(node, rng, leaf_of, parents, updates, samples, timing, exact_goals, flushes):
    """Send all updates through the tree in random order; return what the coordinator has."""
    expected = np.bincount(leaf_of, minlength=len(parents))
    for child, parent in enumerate(parents):  # parents come after their children
        if parent is not None and parent > child:
            expected[parent] += expected[child]
    aggs = []
    for i, parent in enumerate(parents):
        goal = max(1, int(expected[i])) if exact_goals else int(rng.integers(1, 6))
        aggs.append(node.aggregator(RoleRow(1, 1, goal, timing, final=parent is None)))
        aggs[-1].together = bool(rng.random() < 0.5)
    for agg, parent in zip(aggs, parents, strict=True):
        agg.wire.target = node.sink if parent is None else aggs[parent].inbox
    for client in rng.permutation(len(updates)):
        d = node.upload(updates[client], samples[client])
        inbox = aggs[leaf_of[client]].inbox
        inbox.extend([d] * int(rng.integers(1, 3)))  # some are sent twice
        if rng.random() < 0.7:
            node.settle()
        if flushes and rng.random() < 0.1:
            node.close_assignment()
    node.close_assignment()
    return node.collect()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    clients=st.one_of(st.integers(1, 12), st.integers(13, 200)),
    exact_goals=st.booleans(),
    flushes=st.booleans(),
)
def test_eager_lazy_and_flat_agree(node_class, reference, seed, clients, exact_goals, flushes):
    rng = np.random.default_rng(seed)
    updates = [model(rng) for _ in range(clients)]
    samples = [int(n) for n in rng.integers(1, 1000, clients)]
    expected = reference(SCHEMA, updates, samples)
    size = reference(SCHEMA, [{"w": np.abs(u["w"])} for u in updates], samples)
    leaf_of, parents = grow(rng, clients)
    for timing in (EAGER, LAZY):
        node = node_class(SCHEMA, slots=clients + 2 * len(parents) + 2, kernel=NumpyKernel())
        try:
            mean, integers, weight, cover = run(
                node, rng, leaf_of, parents, updates, samples, timing, exact_goals, flushes
            )
            assert cover == set(range(1, clients + 1))
            assert weight == sum(samples)
            assert np.all(np.abs(mean - expected) <= 1e-6 * (clients + 8) * size)
            if not flushes and exact_goals:
                steps = max(int(u["steps"][0]) for u in updates)
                assert int.from_bytes(integers, "little") == steps
            assert node.states() == {SlotState.FREE}
        finally:
            node.pool.close()


def test_200_clients_through_a_tree_of_two(node_class, reference):
    rng = np.random.default_rng(7)
    updates = [model(rng) for _ in range(200)]
    samples = [int(n) for n in rng.integers(1, 600, 200)]
    node = node_class(SCHEMA, slots=320)
    leaf_of = [i // 2 for i in range(200)]
    parents: list[int | None] = [100] * 100 + [101, None]
    got = run(node, rng, leaf_of, parents, updates, samples, EAGER, True, False)
    np.testing.assert_allclose(got[0], reference(SCHEMA, updates, samples), rtol=1e-4, atol=1e-5)
    assert len(got[3]) == 200
    node.pool.close()


@pytest.mark.parametrize("timing", [EAGER, LAZY])
def test_same_order_same_bits(node_class, timing):
    rng = np.random.default_rng(3)
    updates = [model(rng) for _ in range(9)]
    means = []
    for _ in range(2):
        node = node_class(SCHEMA, slots=32)
        fixed = np.random.default_rng(5)
        got = run(
            node, fixed, [0, 0, 0, 1, 1, 1, 2, 2, 2], [3, 3, 3, None], updates, [3] * 9, timing,
            True, False,
        )  # fmt: skip
        means.append(got[0].tobytes())
        node.pool.close()
    assert means[0] == means[1]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    clients=st.integers(10, 200),
    timing=st.sampled_from([EAGER, LAZY]),
)
def test_a_lone_top_compacts_instead_of_filling_the_pool(
    node_class, reference, seed, clients, timing
):
    rng = np.random.default_rng(seed)
    updates = [model(rng) for _ in range(clients)]
    samples = [int(n) for n in rng.integers(1, 1000, clients)]
    node = node_class(SCHEMA, slots=COMPACT_INPUTS + 6, kernel=NumpyKernel())
    try:
        node.pool.reserved = 2
        top = node.aggregator(RoleRow(1, 1, clients, timing, final=True))
        for arrays, n in zip(updates, samples, strict=True):
            top.inbox.append(node.upload(arrays, n))
            node.settle()
        assert len(node.sink) == 1
        mean, integers, weight, cover = node.collect()
        assert cover == set(range(1, clients + 1))
        assert weight == sum(samples)
        size = reference(SCHEMA, [{"w": np.abs(u["w"])} for u in updates], samples)
        error = np.abs(mean - reference(SCHEMA, updates, samples))
        assert np.all(error <= 1e-6 * (clients + 8) * size)
        assert int.from_bytes(integers, "little") == max(int(u["steps"][0]) for u in updates)
        assert node.states() == {SlotState.FREE}
    finally:
        node.pool.close()
