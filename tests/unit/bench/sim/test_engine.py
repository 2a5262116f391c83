"""Shared processors: nothing is lost, nobody gets more than one, none is used that is not there."""

from __future__ import annotations

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.engine import All, Shared, Turn, after

JOBS = st.lists(st.tuples(st.floats(0, 5), st.floats(1e-6, 3)), min_size=1, max_size=25)
CORES = st.integers(1, 6)


def play(cores: float, jobs: list[tuple[float, float]], each: float = 1.0) -> list[float]:
    """Return when each job ends that begins at (seconds) and wants (processor seconds)."""
    env = simpy.Environment()
    shared = Shared(env, cores, each)
    ends = [0.0] * len(jobs)

    def begin(i: int, work: float) -> None:
        shared.run(work, lambda: ends.__setitem__(i, env.now))

    for i, (at, work) in enumerate(jobs):
        after(env, at, lambda i=i, work=work: begin(i, work))
    env.run()
    assert shared.most <= cores + 1e-9
    assert shared.settle() == pytest.approx(sum(work for _, work in jobs), rel=1e-6)
    return ends


def test_fewer_jobs_than_processors_do_not_disturb_one_another() -> None:
    assert play(2, [(0, 1), (0, 2)]) == pytest.approx([1, 2])


def test_more_jobs_than_processors_are_equally_slow() -> None:
    assert play(2, [(0, 1), (0, 1), (0, 1), (0, 1)]) == pytest.approx([2, 2, 2, 2])
    assert play(1, [(0, 1), (0.5, 1)]) == pytest.approx([1.5, 2.0])


def test_a_line_is_shared_and_nobody_is_faster_than_he_can() -> None:
    assert play(100, [(0, 100), (0, 100)], each=10) == pytest.approx([10, 10])
    assert play(10, [(0, 100), (0, 100)], each=10) == pytest.approx([20, 20])


@given(CORES, JOBS)
def test_all_work_is_done_and_none_faster_than_one_processor(
    cores: int, jobs: list[tuple[float, float]]
) -> None:
    ends = play(cores, jobs)
    for (at, work), end in zip(jobs, ends, strict=True):
        assert end >= at + work - 1e-6
    whole = sum(work for _, work in jobs)
    assert max(ends) >= min(at for at, _ in jobs) + whole / cores - 1e-6
    assert max(ends) <= max(at for at, _ in jobs) + whole + 1e-6


@given(CORES, JOBS)
def test_another_processor_makes_nobody_later(cores: int, jobs: list[tuple[float, float]]) -> None:
    few, more = play(cores, jobs), play(cores + 1, jobs)
    assert all(m <= f + 1e-6 for f, m in zip(few, more, strict=True))


@given(CORES, st.integers(1, 9), st.floats(0.01, 3), JOBS)
def test_equal_jobs_at_one_moment_are_as_good_as_one_by_one(
    cores: int, number: int, work: float, others: list[tuple[float, float]]
) -> None:
    env = simpy.Environment()
    shared = Shared(env, cores)
    ends: list[float] = []
    for at, other in others:
        after(env, at, lambda other=other: shared.run(other, lambda: None))
    after(env, 1.0, lambda: shared.run(work, lambda: ends.append(env.now), number))
    env.run()
    alone = play(cores, [*others, *[(1.0, work)] * number])
    assert ends == [pytest.approx(alone[-1], rel=1e-6)]
    assert alone[-number:] == pytest.approx([alone[-1]] * number, rel=1e-6)


def test_turns_are_taken_in_order_one_at_a_time() -> None:
    turn, seen = Turn(), []
    for i in range(3):
        turn.enter(lambda i=i: seen.append(i))
    assert seen == [0]
    turn.leave()
    turn.leave()
    assert seen == [0, 1, 2]
    turn.leave()
    turn.enter(lambda: seen.append(3))
    assert seen[-1] == 3


def test_all_waits_for_the_last() -> None:
    seen: list[int] = []
    done = All(2, lambda: seen.append(1))
    done()
    assert not seen
    done()
    assert seen == [1]


@pytest.mark.parametrize(("capacity", "each"), [(0, 1), (1, 0), (-1, 1)])
def test_nothing_is_not_shared(capacity: float, each: float) -> None:
    with pytest.raises(ValueError):
        Shared(simpy.Environment(), capacity, each)
