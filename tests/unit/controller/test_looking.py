"""Many wakes make one look, an error ends nothing, and the end is prompt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from controller.looking import Looking, at_most_a_third
from lifl.errors import LiflError, Unavailable

pytestmark = pytest.mark.usefixtures("no_leaks")


class Steps:
    def __init__(self, *raises: Exception) -> None:
        self.count = 0
        self.raises = list(raises)
        self.looked = threading.Semaphore(0)

    def __call__(self) -> None:
        self.count += 1
        self.looked.release()
        if self.raises:
            raise self.raises.pop(0)

    def wait(self) -> None:
        assert self.looked.acquire(timeout=5)


def looking(
    steps: Steps,
    *,
    pause: float = 0.0,
    patience: float = 60.0,
    failed: Callable[[LiflError], object] = lambda _: None,
) -> Looking:
    return Looking("test", steps, pause=lambda _: pause, patience=lambda: patience, failed=failed)


def test_it_looks_at_once_and_then_when_woken() -> None:
    steps = Steps()
    loop = looking(steps)
    loop.start()
    steps.wait()
    assert not steps.looked.acquire(timeout=0.2)
    loop.wake()
    steps.wait()
    loop.stop()
    assert loop.ended


def test_it_looks_from_time_to_time_anyway() -> None:
    steps = Steps()
    loop = looking(steps, patience=0.01)
    loop.start()
    for _ in range(3):
        steps.wait()
    loop.stop()


def test_many_wakes_make_one_look_and_none_is_lost() -> None:
    steps = Steps()
    loop = looking(steps, pause=0.2)
    loop.start()
    steps.wait()
    for _ in range(50):
        loop.wake()
    steps.wait()
    assert not steps.looked.acquire(timeout=0.4)
    assert steps.count == 2
    loop.stop()


def test_an_error_is_told_or_logged_and_the_thread_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    steps, told = Steps(Unavailable("away"), ZeroDivisionError("odd")), []
    loop = looking(steps, patience=0.01, failed=told.append)
    loop.start()
    for _ in range(3):
        steps.wait()
    loop.stop()
    assert [str(e) for e in told] == ["away"]
    assert "the thread test goes on after an error" in caplog.text
    assert "odd" in caplog.text


def test_a_pause_does_not_hold_up_the_end() -> None:
    steps = Steps()
    loop = looking(steps, pause=60.0)
    loop.start()
    steps.wait()
    began = time.monotonic()
    loop.stop()
    assert time.monotonic() - began < 2.0


def test_one_that_never_began_may_be_ended() -> None:
    looking(Steps()).stop()


def test_looking_takes_a_third_of_a_processor_at_most() -> None:
    pause = at_most_a_third(0.01, 1.0)
    assert [pause(0.0), pause(0.1), pause(9.0)] == [0.01, 0.2, 1.0]
