from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare.vanilla.scaler import Concurrency, Decision, Seen, Settings, State, decide

SETTINGS = Settings()
loads = st.floats(0, 500)
counts = st.integers(0, 100)
states = st.builds(State, st.none() | st.floats(0, 1000), counts)


def wanted(stable: float, panic: float, ready: int, state: State = State(), **settings) -> Decision:  # noqa: B008
    return decide(1000.0, Seen(stable, panic, ready), state, Settings(**settings))


@pytest.mark.parametrize(
    ("stable", "panic", "ready", "expected"),
    [
        (0, 0, 0, 0),
        (1, 1, 0, 1),  # the first request starts one
        (8, 8, 0, 4),  # ceil(8 / 2), and no rate holds 0 back
        (3, 3, 2, 2),
        (0, 0, 1, 0),  # floor(1 / 2): the last one may go
        (0, 0, 10, 5),  # at most half go at once
    ],
)
def test_a_replica_for_every_target_requests(stable, panic, ready, expected):
    assert wanted(stable, panic, ready).wanted == expected


def test_up_goes_no_faster_than_allowed():
    assert wanted(1000, 1000, 2, up_rate=3).wanted == 6


def test_twice_what_is_ready_is_panic_and_less_is_not():
    assert wanted(1, 8, 2).state.panicked == 1000.0
    assert wanted(1, 8, 2).wanted == 4
    assert wanted(1, 6, 2).state.panicked is None
    assert wanted(1, 6, 2).wanted == 1


def test_in_panic_none_is_taken_away_until_a_stable_window_has_passed():
    state = State(panicked=1000.0, panic_most=4)
    during = decide(1060.0, Seen(0, 0, 4), state, SETTINGS)
    after = decide(1060.1, Seen(0, 0, 4), state, SETTINGS)
    assert during.wanted == 4
    assert (after.wanted, after.state) == (2, State())


def test_most_is_kept_in_panic_too():
    assert wanted(100, 100, 1, most=1).wanted == 1


@given(loads, loads, counts, states, st.integers(0, 50))
def test_bounds(stable, panic, ready, state, most):
    made = decide(1000.0, Seen(stable, panic, ready), state, Settings(most=most))
    assert made.wanted >= 0
    assert not most or made.wanted <= most
    if made.state.panicked is not None and not most:
        assert made.wanted >= state.panic_most
        assert made.wanted >= math.ceil(panic / SETTINGS.target)
    if not most:
        assert made.wanted >= math.ceil(stable / SETTINGS.target)  # 1000 times is no limit here


@given(loads, loads, loads, counts)
def test_more_load_never_wants_less(less, by, panic, ready):
    few = decide(0.0, Seen(less, panic, ready), State(), SETTINGS)
    many = decide(0.0, Seen(less + by, panic, ready), State(), SETTINGS)
    assert many.wanted >= few.wanted


def test_average_over_a_window_that_is_not_full():
    seen = Concurrency(60)
    seen.set(10.0, 4)
    assert seen.average(10.0, 6) == 4  # of no time at all: what there is
    seen.set(11.0, 0)
    assert seen.average(12.0, 60) == pytest.approx(2)
    assert seen.average(17.0, 6) == pytest.approx(0)


def test_idle_for_a_window_begins_anew():
    seen = Concurrency(60)
    seen.set(0.0, 4)
    seen.set(1.0, 0)
    seen.set(61.0, 2)
    assert seen.average(62.0, 60) == 2


@given(st.lists(st.tuples(st.floats(0.01, 30), st.integers(0, 20)), min_size=1), st.floats(0.1, 60))
def test_averages_lie_between_the_least_and_the_most(steps, window):
    seen, at, known = Concurrency(60), 0.0, [0]
    for seconds, count in steps:
        at += seconds
        seen.set(at, count)
        known.append(count)
    assert -1e-9 <= seen.average(at + 1, window) <= max(known) + 1e-9
    assert seen.now == steps[-1][1]
