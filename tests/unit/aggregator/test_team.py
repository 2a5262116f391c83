"""A team computes what one thread does, and leaves no thread behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.aggregator import team as module
from functions.aggregator.blas import F32, NumpyKernel, best_kernel
from functions.aggregator.team import SHARE, Team, processors


class Watched(NumpyKernel):
    """Notes who computed how much; fails in helpers if told to."""

    def __init__(self, *, failing: bool = False) -> None:
        self.work: list[tuple[str, int]] = []
        self.failing = failing

    def axpby(self, a: float, x: F32, b: float, y: F32) -> None:
        self.work.append((threading.current_thread().name, len(y)))
        if self.failing and threading.current_thread() is not threading.main_thread():
            raise MemoryError
        super().axpby(a, x, b, y)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@contextlib.contextmanager
def team(kernel: Watched, threads: int) -> Iterator[Team]:
    before = set(threading.enumerate())
    with contextlib.closing(Team(kernel, threads)) as made:
        yield made
    assert set(threading.enumerate()) == before


@given(
    st.integers(0, 5000),
    st.integers(1, 5),
    st.sampled_from([0.0, 1.0, 0.25, -3.0]),
    st.integers(1, 700),
)
def test_the_sum_is_that_of_one_thread(
    elements: int, threads: int, keep: float, share: int
) -> None:
    rng = np.random.default_rng(elements)
    x, y = rng.standard_normal((2, elements), np.float32)
    expected, scaled = y.copy(), y.copy()
    NumpyKernel().axpby(0.5, x, keep, expected)
    NumpyKernel().scale(keep, scaled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARE", share)
        patch.setattr(module, "ALIGN", 16)
        with contextlib.closing(Team(NumpyKernel(), threads)) as made:
            out, other = y.copy(), y.copy()
            made.axpby(0.5, x, keep, out)
            made.scale(keep, other)
            together = y.copy()
            made.add([(0.5, x), (2.0, x)], keep, together)
    assert np.array_equal(out, expected)
    NumpyKernel().add([(0.5, x), (2.0, x)], keep, y)
    assert np.array_equal(together, y)
    assert np.array_equal(other, scaled)


def test_every_thread_gets_a_share_of_a_large_vector(watched: Watched) -> None:
    x, y = np.ones((2, 3 * SHARE), np.float32)
    with team(watched, 3) as three:
        three.axpby(1.0, x, 1.0, y)
    assert [n for _, n in watched.work] == [SHARE] * 3
    names = [name for name, _ in watched.work]
    assert names.count(threading.current_thread().name) == 1
    assert (y == 2).all()


def test_a_small_vector_wakes_nobody(watched: Watched) -> None:
    x, y = np.ones((2, 2 * SHARE - 1), np.float32)
    with team(watched, 4) as four:
        four.axpby(1.0, x, 1.0, y)
    assert watched.work == [(threading.current_thread().name, len(y))]


def test_one_thread_is_a_team_too(watched: Watched) -> None:
    x, y = np.ones((2, 4 * SHARE), np.float32)
    with team(watched, 1) as lone:
        lone.axpby(1.0, x, 1.0, y)
    assert len(watched.work) == 1


def test_vectors_of_two_lengths_are_refused(watched: Watched) -> None:
    with team(watched, 2) as two, pytest.raises(ValueError, match="do not fit"):
        two.axpby(1.0, np.ones(3, np.float32), 1.0, np.ones(4, np.float32))
    with team(watched, 2) as two, pytest.raises(ValueError, match="do not fit"):
        two.add([(1.0, np.ones(4, np.float32)), (1.0, np.ones(3, np.float32))], 1.0, np.ones(4))


def test_a_helper_that_fails_is_not_overlooked() -> None:
    x, y = np.ones((2, 2 * SHARE), np.float32)
    with team(Watched(failing=True), 2) as two, pytest.raises(MemoryError):
        two.axpby(1.0, x, 1.0, y)


def test_it_is_called_by_the_kernel_and_the_threads() -> None:
    with contextlib.closing(Team(best_kernel(), 2)) as two:
        assert two.name == f"{best_kernel().name}, 2 threads"
    assert 1 <= processors() <= module.MOST
