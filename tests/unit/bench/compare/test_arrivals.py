"""Arrival times: sorted, as many as asked for, and of the right density."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare import arrivals


def test_burst() -> None:
    assert arrivals.burst(3) == (0.0, 0.0, 0.0)


@given(st.integers(1, 200), st.integers(0, 1000))
def test_all_are_sorted_and_repeatable(n: int, seed: int) -> None:
    for make in (
        lambda: arrivals.poisson(n, 5.0, seed),
        lambda: arrivals.diurnal(n, 24.0, seed),
    ):
        found = make()
        assert len(found) == n
        assert list(found) == sorted(found)
        assert found[0] >= 0
        assert make() == found


def test_poisson_has_its_rate() -> None:
    found = arrivals.poisson(20_000, 5.0)
    gaps = np.diff(found)
    assert np.mean(gaps) == pytest.approx(0.2, rel=0.03)
    assert np.std(gaps) == pytest.approx(0.2, rel=0.05)  # exponential: as wide as its mean


def test_poisson_needs_a_rate() -> None:
    with pytest.raises(ValueError, match="rate of 0"):
        arrivals.poisson(3, 0)


def test_availability_swings_fourfold_within_a_day() -> None:
    noon, night = arrivals.availability([12.0, 0.0], 24.0)
    assert noon == pytest.approx(1.0)
    assert noon / night == pytest.approx(4.0)
    with pytest.raises(ValueError, match="swing"):
        arrivals.availability(0.0, 24.0, swing=1.0)


def test_diurnal_is_as_dense_as_clients_are_available() -> None:
    found = np.array(arrivals.diurnal(100_000, 24.0))
    assert found.max() <= 24.0
    counts, edges = np.histogram(found, bins=24, range=(0, 24))
    expected = arrivals.availability((edges[1:] + edges[:-1]) / 2, 24.0)
    assert np.abs(counts / counts.sum() - expected / expected.sum()).max() < 0.003


def test_sizes_follow_the_day() -> None:
    found = arrivals.sizes(12, 40)
    assert max(found) == 40
    assert min(found) == 10
    assert len(set(found)) <= 4
    assert found == found[::-1]
    assert found.index(40) in range(4, 8)
    assert min(arrivals.sizes(6, 1)) == 1


def test_a_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("# seconds\n12.5\n\n10 # the first\n11\n")
    assert arrivals.read_trace(path) == (0.0, 1.0, 2.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [("1\nsoon\n", "line 2: 'soon'"), ("# nothing\n", "no arrivals"), ("1\nnan\n", "'nan'")],
)
def test_a_bad_trace_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        arrivals.read_trace(path)
