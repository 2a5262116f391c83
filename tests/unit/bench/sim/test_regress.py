"""Costs from sums: found again when they are not negative, never negative."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim import regress

COUNTS = [(1, 1, 4.5e6), (4, 1, 4.5e6), (1, 1, 45e6), (4, 1, 45e6), (2, 1, 9e6)]


PART = st.just(0.0) | st.floats(1e-3, 1)


@given(st.lists(PART, min_size=3, max_size=3).filter(any))
def test_costs_are_found_again(parts: list[float]) -> None:
    true = np.array(parts) * [1e-3, 1e-2, 1e-9]
    seconds = np.array(COUNTS) @ true
    assert regress.costs(COUNTS, list(seconds)) == pytest.approx(list(true), rel=1e-4, abs=1e-12)


@given(st.lists(st.floats(1e-3, 1), min_size=5, max_size=5))
def test_no_cost_is_negative_and_none_is_nothing(seconds: list[float]) -> None:
    found = regress.costs(COUNTS, seconds)
    assert min(found) >= 0
    assert max(found) > 0


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="2 runs"):
        regress.costs(COUNTS[:2], [1.0, 2.0])
    with pytest.raises(ValueError, match="no time"):
        regress.costs(COUNTS, [1.0, 1.0, 0.0, 1.0, 1.0])
