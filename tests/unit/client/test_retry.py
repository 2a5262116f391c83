"""Pauses follow the published formula and the server's wish; patience ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.client import Backoff, Retry
from lifl.client.http import HttpError
from lifl.errors import TemporaryError, Unavailable

UNIT = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10_000), UNIT)
def test_full_jitter(attempt: int, draw: float) -> None:
    pause = Backoff(base=0.5, cap=20.0).delay(attempt, None, draw)
    assert pause == draw * min(20.0, 0.5 * 2.0 ** min(attempt, 100))


@given(st.integers(0, 100), st.floats(0, 300), UNIT)
def test_at_least_what_the_server_asks_and_at_most_twice(
    attempt: int, hint: float, draw: float
) -> None:
    pause = Backoff(base=0.5).delay(attempt, hint, draw)
    assert hint <= pause <= hint + max(hint, 0.5)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def retry_with(clock: Clock, patience: float) -> Retry:
    return Retry(patience, Backoff(base=1.0, cap=4.0), clock.sleep, lambda: clock.now, lambda: 1.0)


def test_runs_until_an_answer() -> None:
    clock = Clock()
    answers = [Unavailable("no"), Unavailable("no"), "yes"]

    def call() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    assert retry_with(clock, 60.0).run(call) == "yes"
    assert clock.now == 100.0 + 1.0 + 2.0


def test_patience_ends_with_the_last_error() -> None:
    clock = Clock()

    def call() -> str:
        raise Unavailable(f"at {clock.now}")

    with pytest.raises(Unavailable, match=r"at 111\.0"):
        retry_with(clock, 14.0).run(call)


def test_an_answer_with_retry_after_is_a_hint_silence_is_not() -> None:
    clock = Clock()
    attempts = retry_with(clock, 60.0).start()
    busy = TemporaryError("busy", retry_after=5.0)
    busy.__cause__ = HttpError(503, {})
    attempts.pause(busy)
    assert clock.now == 110.0
    attempts.pause(Unavailable("silent", retry_after=5.0))
    assert clock.now == 112.0
