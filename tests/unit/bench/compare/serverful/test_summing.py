from __future__ import annotations

import numpy as np
import pytest

from bench.compare.serverful.protocol import pieces
from bench.compare.serverful.summing import STEP, Sum
from functions.aggregator.blas import NumpyKernel, best_kernel

ELEMENTS = 2 * STEP + 5


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(ELEMENTS, np.float32)


def put(total: Sum, values: np.ndarray, weight: float, samples: float) -> None:
    messages = pieces(memoryview(values).cast("B"))
    for number, piece in enumerate(messages):
        total.add(number, piece, weight)
    total.complete(len(messages), samples)


@pytest.mark.parametrize("kernel", [best_kernel(), NumpyKernel()], ids=lambda k: k.name)
def test_two_interleaved_inputs_give_their_weighted_mean(kernel):
    a, b = vector(1), vector(2)
    total = Sum(ELEMENTS, kernel)
    first, second = (pieces(memoryview(v).cast("B")) for v in (a, b))
    for number in range(3):  # whoever comes first to a part replaces what is there
        for piece, weight in ((first, 3.0), (second, 5.0))[:: 1 if number else -1]:
            total.add(number, piece[number], weight)
    total.complete(3, 3.0)
    total.complete(3, 5.0)
    np.testing.assert_allclose(total.take_mean(), (3 * a + 5 * b) / 8, rtol=1e-5, atol=1e-6)


def test_rounds_do_not_mix_and_a_mean_stays_while_the_next_is_summed():
    total = Sum(ELEMENTS, best_kernel())
    a, b, c = vector(1), vector(2), vector(3)
    put(total, a, 2.0, 2.0)
    first = total.take_mean()
    put(total, b, 4.0, 4.0)
    np.testing.assert_allclose(first, a, rtol=1e-6)
    second = total.take_mean()
    np.testing.assert_allclose(second, b, rtol=1e-6)
    put(total, c, 1.0, 1.0)
    np.testing.assert_allclose(second, b, rtol=1e-6)
    np.testing.assert_allclose(total.take_mean(), c, rtol=1e-6)


def test_clear_forgets_what_was_added():
    total = Sum(ELEMENTS, best_kernel())
    put(total, vector(1), 1.0, 1.0)
    total.clear()
    put(total, vector(2), 1.0, 1.0)
    assert total.samples == 1.0
    np.testing.assert_allclose(total.take_mean(), vector(2), rtol=1e-6)


def test_a_message_too_many_too_short_or_missing_is_refused():
    total = Sum(ELEMENTS, best_kernel())
    with pytest.raises(ValueError, match="message 3"):
        total.add(3, b"1234", 1.0)
    with pytest.raises(ValueError, match="message 0"):
        total.add(0, bytes(4), 1.0)
    with pytest.raises(ValueError, match="message 2"):
        total.add(2, bytes(24), 1.0)
    with pytest.raises(ValueError, match="2 of 3"):
        total.complete(2, 1.0)


def test_the_view_is_the_sum_itself():
    total = Sum(ELEMENTS, best_kernel())
    put(total, vector(1), 2.0, 2.0)
    np.testing.assert_allclose(np.frombuffer(total.view(), np.float32), 2 * vector(1), rtol=1e-6)
