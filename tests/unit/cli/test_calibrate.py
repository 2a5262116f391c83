"""Where a node is full: decided from rates alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.cli.calibrate import Load, capacity, goes_on


def loads(*rates: float) -> list[Load]:
    return [Load(2**i, rate, 2**i / rate) for i, rate in enumerate(rates)]


def test_it_goes_on_while_twice_the_clients_bring_a_tenth_more() -> None:
    assert goes_on([])
    assert goes_on(loads(10))
    assert goes_on(loads(10, 20, 22.1))
    assert not goes_on(loads(10, 20, 21.9))
    assert not goes_on(loads(10, 20, 15))


def test_the_capacity_is_the_least_load_that_is_nearly_the_best() -> None:
    assert capacity(loads(10, 20, 38, 40)).clients == 4
    assert capacity(loads(10, 20, 40, 39)).clients == 4
    assert capacity(loads(10)).clients == 1
    assert capacity(loads(10, 20, 40)).in_service == pytest.approx(4.0)


def test_nothing_measured_is_no_capacity() -> None:
    with pytest.raises(ValueError):
        capacity([])


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=10))
def test_the_capacity_is_one_of_the_loads_and_no_earlier_one_is_as_good(rates: list[float]) -> None:
    found = loads(*rates)
    full = capacity(found)
    best = max(rates)
    assert full.rate >= 0.9 * best
    assert all(step.rate < 0.9 * best for step in found[: found.index(full)])
