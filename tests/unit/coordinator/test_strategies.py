"""Strategies against references written element by element in plain float64 Python."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.coordinator.optimizer import THREADS, _spans, _together
from functions.coordinator.strategies import (
    BLOCK,
    Diverged,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    Part,
    advance,
    apply,
    initial_state,
    make,
    mean_into,
)
from lifl.errors import ConfigError

# The formulas of Reddi et al. 2021 (Algorithm 2) and Hsu et al. 2019, one element at a time.


def ref_fedavg(x, mean, state, p):
    return x + p["lr"] * (mean - x), state


def ref_fedavgm(x, mean, state, p):
    v = p["momentum"] * state.get("velocity", 0.0) + (mean - x)
    return x + p["lr"] * v, {"velocity": v}


def ref_adaptive(x, mean, state, p, second):
    delta = mean - x
    m = p["beta1"] * state.get("m", 0.0) + (1.0 - p["beta1"]) * delta
    v = second(state.get("v", p["tau"] ** 2), delta * delta, p)
    return x + p["lr"] * m / (math.sqrt(v) + p["tau"]), {"m": m, "v": v}


def ref_fedadam(x, mean, state, p):
    return ref_adaptive(
        x, mean, state, p, lambda v, d2, p: p["beta2"] * v + (1.0 - p["beta2"]) * d2
    )


def ref_fedyogi(x, mean, state, p):
    def second(v, d2, p):
        sign = (v > d2) - (v < d2)
        return v - (1.0 - p["beta2"]) * d2 * sign

    return ref_adaptive(x, mean, state, p, second)


def ref_fedadagrad(x, mean, state, p):
    return ref_adaptive(x, mean, state, p, lambda v, d2, p: v + d2)


CASES = [
    ("fedavg", {"lr": 1.0}, ref_fedavg),
    ("fedavg", {"lr": 0.3}, ref_fedavg),
    ("fedavgm", {"lr": 0.5, "momentum": 0.9}, ref_fedavgm),
    ("fedadam", {"lr": 0.02, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}, ref_fedadam),
    ("fedyogi", {"lr": 0.02, "beta1": 0.8, "beta2": 0.95, "tau": 1e-2}, ref_fedyogi),
    ("fedadagrad", {"lr": 0.05, "beta1": 0.0, "tau": 1e-3}, ref_fedadagrad),
    ("fedadagrad", {"lr": 0.05, "beta1": 0.5, "tau": 1e-3}, ref_fedadagrad),
]


@pytest.mark.parametrize(("name", "parameters", "reference"), CASES)
@pytest.mark.parametrize("delta", [False, True])
def test_ten_versions_match_the_reference(name, parameters, reference, delta):
    rng = random.Random(7)
    size = 40
    strategy = make(name, parameters)
    model = np.array([rng.uniform(-1, 1) for _ in range(size)], np.float32)
    expected = [float(x) for x in model]
    states: list[dict] = [{} for _ in range(size)]
    state: dict[str, np.ndarray] = {}
    for _ in range(10):
        step = np.array([rng.uniform(-0.2, 0.2) for _ in range(size)], np.float32)
        mean = step if delta else (model + step).astype(np.float32)
        for i in range(size):
            target = expected[i] + float(step[i]) if delta else float(mean[i])
            expected[i], states[i] = reference(expected[i], target, states[i], parameters)
        model, state = apply(strategy, model, mean, state, delta=delta)
    np.testing.assert_allclose(model, expected, rtol=2e-4, atol=2e-5)
    assert set(state) == set(strategy.vectors)


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_arguments_are_not_changed(name):
    strategy = make(name, {})
    rng = np.random.default_rng(1)
    model, mean = rng.standard_normal((2, 100)).astype(np.float32)
    _, state = apply(strategy, model, mean, {})
    kept = {k: v.copy() for k, v in state.items()}
    before = model.copy(), mean.copy()
    new_model, new_state = apply(strategy, model, mean, state)
    np.testing.assert_array_equal(model, before[0])
    np.testing.assert_array_equal(mean, before[1])
    for k, v in kept.items():
        np.testing.assert_array_equal(state[k], v)
        assert not np.shares_memory(new_state[k], state[k])
    assert new_model is not model


@pytest.mark.parametrize("strategy", [FedAvg(0.5), FedAvgM(), FedAdam(), FedYogi(), FedAdagrad()])
def test_blocks_do_not_show(strategy):
    size = 2 * BLOCK + 17
    rng = np.random.default_rng(2)
    model, mean = rng.standard_normal((2, size)).astype(np.float32)
    whole, state = apply(strategy, model, mean, {})
    for start, end in [(0, 5), (BLOCK - 3, BLOCK + 3), (2 * BLOCK, size)]:
        part, part_state = apply(strategy, model[start:end], mean[start:end], {})
        np.testing.assert_array_equal(part, whole[start:end])
        for name, vector in part_state.items():
            np.testing.assert_array_equal(vector, state[name][start:end])


def test_fedavg_with_rate_one_is_the_mean_bit_for_bit():
    rng = np.random.default_rng(3)
    model, total = rng.standard_normal((2, 1000)).astype(np.float32)
    out = np.empty(1000, np.float32)
    advance(FedAvg(), model, [Part(total, 37.0)], old={}, new={}, out=out, delta=False)
    np.testing.assert_array_equal(out, total / np.float32(37.0))


def test_sums_and_means_of_several_partials_combine():
    rng = np.random.default_rng(4)
    a, b, c = rng.standard_normal((3, 5000)).astype(np.float32)
    parts = [Part(a, 3.0), Part(b, 5.0, is_mean=True), Part(c, 2.0)]
    out, scratch = np.empty((2, 5000), np.float32)
    mean_into(parts, 0, 5000, out, scratch)
    expected = (a.astype(np.float64) + b.astype(np.float64) * 5 + c) / 10
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    mean_into(parts[1:2], 10, 20, out[:10], scratch)
    np.testing.assert_array_equal(out[:10], b[10:20])


@pytest.mark.parametrize("name", ["fedavg", "fedadam"])
def test_parts_made_by_themselves_are_the_whole(name):
    """So that several threads may each make one."""
    rng = np.random.default_rng(5)
    size = 2 * BLOCK + 77
    strategy = make(name, {})
    model, total = rng.standard_normal((2, size)).astype(np.float32)
    results = []
    for spans in ([None], [(BLOCK, size), (0, 5), (5, BLOCK)]):
        old = initial_state(strategy, size)
        new = {vector: np.empty(size, np.float32) for vector in strategy.vectors}
        out = np.full(size, np.nan, np.float32)
        for span in spans:
            advance(
                strategy,
                model,
                [Part(total, 37.0)],
                old=old,
                new=new,
                out=out,
                delta=False,
                span=span,
            )
        results.append([out, *new.values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@given(elements=st.integers(1, 50_000_000), processors=st.integers(1, 64))
def test_a_model_is_cut_into_parts_without_gaps(elements, processors):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.sched_getaffinity", lambda pid: set(range(processors)))
        spans = _spans(elements)
    assert (spans[0][0], spans[-1][1]) == (0, elements)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert all(lo < hi and lo % BLOCK == 0 for lo, hi in spans)
    assert len(spans) <= min(THREADS, processors)


def test_what_goes_wrong_in_one_part_is_told_when_all_have_ended():
    ended = []

    def run(span):
        if span == (1, 2):
            raise Diverged("element 1")
        ended.append(span)

    with pytest.raises(Diverged, match="element 1"):
        _together(run, [(0, 1), (1, 2), (2, 3)])
    assert sorted(ended) == [(0, 1), (2, 3)]


def test_slots_longer_than_the_model_are_read_to_its_length_only():
    padded = np.full(64, np.nan, np.float32)
    padded[:10] = 4.0
    out = np.empty(10, np.float32)
    advance(
        FedAvg(),
        np.zeros(10, np.float32),
        [Part(padded, 2.0)],
        old={},
        new={},
        out=out,
        delta=False,
    )
    np.testing.assert_array_equal(out, np.full(10, 2.0, np.float32))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_model_that_is_not_finite_is_refused_with_its_place(bad):
    total = np.ones(BLOCK + 10, np.float32)
    total[BLOCK + 3] = bad
    model = np.zeros_like(total)
    with pytest.raises(Diverged, match=f"element {BLOCK + 3} "):
        advance(FedAvg(), model, [Part(total, 1.0)], old={}, new={}, out=model.copy(), delta=False)


def test_large_but_finite_values_pass():
    total = np.full(10, 3e38, np.float32)
    model, _ = apply(FedAvg(), np.zeros(10, np.float32), total, {})
    np.testing.assert_array_equal(model, total)


def test_state_before_the_first_version_takes_no_memory():
    state = initial_state(FedAdam(tau=0.5), 10**9)
    assert state["v"].strides == (0,)
    assert (float(state["m"][0]), float(state["v"][-1])) == (0.0, 0.25)


def test_unknown_names_and_parameters_are_refused():
    with pytest.raises(ConfigError, match="no strategy 'sgd'"):
        make("sgd", {})
    with pytest.raises(ConfigError, match="does not take"):
        make("fedavg", {"momentum": 0.9})
