from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.plan.estimate import ALPHA, load, residual, smooth

numbers = st.floats(0, 1e6, allow_nan=False)


def test_load_is_rate_times_duration() -> None:
    assert load(4.0, 0.5) == 2.0
    with pytest.raises(ValueError, match="not negative"):
        load(-1.0, 1.0)


def test_the_first_sample_is_taken_as_it_is_then_the_past_weighs_alpha() -> None:
    assert smooth(None, 10.0) == 10.0
    assert smooth(10.0, 20.0) == pytest.approx(ALPHA * 10 + (1 - ALPHA) * 20)
    with pytest.raises(ValueError, match="alpha"):
        smooth(1.0, 1.0, alpha=1.0)


@given(previous=numbers, sample=numbers, alpha=st.floats(0, 0.99))
def test_the_average_lies_between_past_and_sample(
    previous: float, sample: float, alpha: float
) -> None:
    low, high = sorted((previous, sample))
    assert low - 1e-6 <= smooth(previous, sample, alpha) <= high + 1e-6


@given(maximum=numbers, q=numbers)
def test_residual_capacity_is_never_negative(maximum: float, q: float) -> None:
    assert residual(maximum, q) == max(0.0, maximum - q)
