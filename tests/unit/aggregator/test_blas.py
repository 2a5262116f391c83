"""Both sum kernels compute the same, and refuse what would write elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.aggregator import blas
from functions.aggregator.blas import BLOCK, BlasKernel, NumpyKernel

KERNELS = [BlasKernel(), NumpyKernel()]


@pytest.fixture(params=KERNELS, ids=lambda k: k.name)
def kernel(request):
    return request.param


@given(
    length=st.sampled_from([0, 1, 7, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]),
    a=st.floats(-1e4, 1e4, width=32),
    b=st.sampled_from([0.0, 1.0, 0.25, -3.0]),
    seed=st.integers(0, 9),
)
def test_axpby_is_the_formula(length, a, b, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, length)).astype(np.float32)
    expected = a * x.astype(np.float64) + b * y.astype(np.float64)
    scale = abs(a) * np.abs(x) + abs(b) * np.abs(y) + 1e-30
    for kernel in KERNELS:
        out = y.copy()
        kernel.axpby(a, x, b, out)
        assert np.all(np.abs(out - expected) <= 3e-7 * scale), kernel.name


@given(
    length=st.sampled_from([0, 1, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]),
    factors=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=5),
    b=st.sampled_from([0.0, 1.0, 0.25, -3.0]),
    seed=st.integers(0, 9),
)
def test_several_terms_are_the_sum_of_each(length, factors, b, seed):
    rng = np.random.default_rng(seed)
    y = np.full(length, np.nan, np.float32) if b == 0.0 else rng.standard_normal(length, np.float32)
    terms = [(a, rng.standard_normal(length, np.float32)) for a in factors]
    parts = [a * x.astype(np.float64) for a, x in terms]
    parts += [b * y.astype(np.float64)] if b else []
    scale = np.sum(np.abs(parts), axis=0) + 1e-30
    for kernel in KERNELS:
        out = y.copy()
        kernel.add(terms, b, out)
        assert np.all(np.abs(out - np.sum(parts, axis=0)) <= 6e-7 * scale), kernel.name


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("apart", [0, 1, 999, 1000, 1001, 4096])
@pytest.mark.parametrize("odd_bytes", [0, 1, 2])
def test_two_vectors_wherever_they_lie(kernel, apart, odd_bytes, swapped):
    """Side by side they are a matrix; one twice, overlapping or oddly apart they are none."""
    memory = np.random.default_rng(1).integers(0, 100, 4 * 9000, np.uint8)
    memory.view(np.float32)[:] = np.arange(9000) % 97
    low = memory[:4000].view(np.float32)
    start = 4 * apart + odd_bytes
    memory[start : start + 4000].view(np.float32)[:] = np.arange(1000) % 89
    high = memory[start : start + 4000].view(np.float32)
    y = np.ones(1000, np.float32)
    expected = 2.0 * low.astype(np.float64) - 3.0 * high + 1.0
    terms = [(2.0, low), (-3.0, high)]
    kernel.add(terms[::-1] if swapped else terms, 1.0, y)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-3)


def test_two_vectors_in_calls_of_limited_length(monkeypatch):
    monkeypatch.setattr(blas, "LONG", 1000)
    slots = np.arange(2 * 5000, dtype=np.float32).reshape(2, 5000)
    y = np.ones(3456, np.float32)
    BlasKernel().add([(1.0, slots[1][:3456]), (2.0, slots[0][:3456])], 1.0, y)
    assert np.array_equal(y, 1 + slots[1][:3456] + 2 * slots[0][:3456])


def test_what_was_in_the_output_does_not_matter_when_b_is_0(kernel):
    y = np.full(BLOCK + 3, np.nan, np.float32)
    kernel.axpby(2.0, np.ones(BLOCK + 3, np.float32), 0.0, y)
    assert np.all(y == 2.0)


def test_scale(kernel):
    y = np.arange(10, dtype=np.float32)
    kernel.scale(0.5, y)
    assert np.array_equal(y, np.arange(10) / 2)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros(4, np.float32), np.zeros(3, np.float32)),
        (np.zeros(3, np.float64), np.zeros(3, np.float32)),
        (np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)),
        (np.zeros(6, np.float32)[::2], np.zeros(3, np.float32)),
        (np.zeros(3, np.float32), np.frombuffer(bytes(12), np.float32)),
    ],
    ids=["length", "dtype", "2-d", "strided", "read-only"],
)
def test_blas_refuses_what_it_would_misread(x, y):
    with pytest.raises(ValueError, match="contiguous float32"):
        BlasKernel().axpby(1.0, x, 1.0, y)
    fits = np.zeros(y.shape, np.float32)
    for terms in ([(1.0, fits), (1.0, x)], [(1.0, x), (1.0, fits)]):
        with pytest.raises(ValueError, match="contiguous float32"):
            BlasKernel().add(terms, 0.0, y)


def test_blas_in_calls_of_limited_length(monkeypatch):
    monkeypatch.setattr(blas, "_CALL_MAX", 1000)
    x, y = np.ones(3456, np.float32), np.ones(3456, np.float32)
    BlasKernel().axpby(2.0, x, 1.0, y)
    assert np.all(y == 3.0)


def test_numpy_takes_over_when_the_library_is_missing(monkeypatch):
    assert blas.best_kernel().name == "openblas"
    monkeypatch.setattr(blas.importlib.util, "find_spec", lambda name: None)
    assert blas.best_kernel().name == "numpy"
