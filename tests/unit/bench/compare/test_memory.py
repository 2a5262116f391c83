"""The memory sampler: what it keeps, when it ends, what it says of a group that fails."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare.memory import Sampler, thinned


class Scripted:
    """A group whose memory is a script; says when it has been read to its end."""

    def __init__(self, script: list[int | Exception]) -> None:
        self._script = script
        self.through = threading.Event()

    def memory(self) -> int:
        value = self._script[0]
        if len(self._script) > 1:
            self._script.pop(0)
        else:
            self.through.set()
        if isinstance(value, Exception):
            raise value
        return value

    def adopt(self) -> Any:
        raise NotImplementedError

    usage = adopt


def test_every_sample_is_kept_in_order_and_the_highest_is_the_peak(no_leaks: None) -> None:
    group = Scripted([5, 90, 7, 3])
    with Sampler(group, period=0.001) as sampler:
        assert group.through.wait(10)
    assert [n for _, n in sampler.samples[:4]] == [5, 90, 7, 3]
    times = [t for t, _ in sampler.samples]
    assert times == sorted(times)
    assert times[0] >= 0
    assert sampler.peak == 90


def test_the_start_and_the_end_are_sampled_however_short_it_was(no_leaks: None) -> None:
    with Sampler(Scripted([1, 2]), period=1000) as sampler:
        pass
    assert [n for _, n in sampler.samples] == [1, 2]


def test_what_a_group_raises_is_told_at_the_end(no_leaks: None) -> None:
    group = Scripted([1, OSError("gone")])
    sampler = Sampler(group, period=0.001)
    with pytest.raises(OSError, match="gone"), sampler:
        assert group.through.wait(10)


def test_the_blocks_own_error_is_not_replaced(no_leaks: None) -> None:
    group = Scripted([1, OSError("gone")])
    with pytest.raises(KeyError), Sampler(group, period=0.001):
        assert group.through.wait(10)
        raise KeyError


@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 1 << 40)), min_size=1).map(sorted),
    st.integers(1, 50),
)
def test_thinning_keeps_the_peak_the_order_and_the_bound(
    samples: list[tuple[float, int]], points: int
) -> None:
    kept = thinned(samples, points)
    assert len(kept) <= points
    assert kept == sorted(kept)
    assert set(kept) <= set(samples)
    assert max(n for _, n in kept) == max(n for _, n in samples)


def test_thinning_keeps_one_sample_of_each_stretch() -> None:
    samples = [(float(i), i % 10) for i in range(100)]
    assert thinned(samples, 10) == [(10.0 * i + 9, 9) for i in range(10)]


def test_no_points_are_refused() -> None:
    with pytest.raises(ValueError, match="0 points"):
        thinned([(0.0, 1)], 0)
