"""Which upload is read next."""

from __future__ import annotations

import gevent
import pytest

from functions.gateway import turns as module
from functions.gateway.turns import STREAMING_BYTES, Turn, Turns


def fast() -> int:
    """Return how much of an upload has arrived that comes as fast as can be."""
    return 1 << 40


def queue(turns: Turns, order: list[int], *sizes: int) -> list[gevent.Greenlet]:
    """Let uploads of ``sizes`` ask for the turn, in this order, and note when each gets it."""

    def upload(size: int) -> None:
        turn = turns.join()
        turn.read(STREAMING_BYTES)
        turn.take(size, fast)
        order.append(size)
        turn.give()

    found = [gevent.spawn(upload, size) for size in sizes]
    gevent.sleep(0)
    return found


def held(turns: Turns, remaining: int) -> Turn:
    turn = turns.join()
    turn.read(STREAMING_BYTES)
    turn.take(remaining, fast)
    assert turn.streams
    return turn


def test_a_lone_upload_never_waits() -> None:
    turn = held(Turns(), 100)
    turn.take(50, fast)
    turn.breathe()
    turn.take(10, fast)
    turn.give()


def test_the_one_with_least_left_goes_first() -> None:
    turns, order = Turns(), []
    holder = held(turns, 1)
    uploads = queue(turns, order, 300, 100, 200)
    assert order == []
    holder.give()
    gevent.joinall(uploads)
    assert order == [100, 200, 300]


def test_the_longest_waiting_goes_first_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGE", -1.0)
    turns, order = Turns(), []
    holder = held(turns, 1)
    uploads = queue(turns, order, 300, 100, 200)
    holder.give()
    gevent.joinall(uploads)
    assert order == [300, 100, 200]


def test_a_large_upload_lets_a_small_one_pass_between_two_pieces() -> None:
    turns, order = Turns(), []
    large = held(turns, 1000)
    uploads = queue(turns, order, 10, 2000)
    large.breathe()
    large.take(900, fast)
    assert order == [10]
    large.give()
    gevent.joinall(uploads)
    assert order == [10, 2000]


def test_an_upload_streams_once_it_was_read_for_a_while_without_a_pause() -> None:
    turn = Turns().join()
    turn.read(STREAMING_BYTES - 1)
    turn.take(1000, fast)
    assert not turn.streams
    turn.paused()
    turn.read(STREAMING_BYTES - 1)
    turn.take(500, fast)
    assert not turn.streams
    turn.read(1)
    turn.take(499, fast)
    assert turn.streams
    turn.paused()
    assert not turn.streams


def test_a_slow_upload_does_not_stream_however_much_of_it_has_piled_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turn = Turns().join()
    monkeypatch.setattr(module, "STREAMING_RATE", 1e18)
    turn.read(4 * STREAMING_BYTES)
    turn.take(1000, lambda: 5 * STREAMING_BYTES)
    assert not turn.streams


def test_slow_uploads_neither_wait_nor_hold_up() -> None:
    turns = Turns()
    holder = held(turns, 1)
    for _ in range(100):
        slow = turns.join()
        slow.read(STREAMING_BYTES // 4)
        slow.take(10, fast)
        slow.breathe()
        slow.paused()
    holder.breathe()
    assert holder.streams


def test_an_aged_upload_waits_for_the_holder_to_have_had_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "AGE", -1.0)
    turns, order = Turns(), []
    holder = held(turns, 1000)
    uploads = queue(turns, order, 300, 100)
    holder.breathe()
    assert order == []
    monkeypatch.setattr(module, "HOLD", -1.0)
    holder.breathe()
    assert order == [300, 100]
    holder.give()
    gevent.joinall(uploads)


def test_who_came_by_age_is_not_passed_by_smaller_ones_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns, order = Turns(), []
    holder, aged = held(turns, 1), turns.join()
    aged.read(STREAMING_BYTES)
    waiting = gevent.spawn(aged.take, 1000, fast)
    gevent.sleep(0)
    monkeypatch.setattr(module, "AGE", -1.0)
    holder.give()
    waiting.join()
    monkeypatch.setattr(module, "AGE", 60.0)
    uploads = queue(turns, order, 10)
    aged.breathe()
    assert order == []
    aged.give()
    gevent.joinall(uploads)
    assert order == [10]


def test_an_upload_that_is_killed_while_it_waits_leaves_the_queue() -> None:
    turns, order = Turns(), []
    holder = held(turns, 1)
    doomed, other = queue(turns, order, 100, 200)
    doomed.kill()
    holder.give()
    other.join()
    assert order == [200]
    held(turns, 5).give()


def test_an_upload_that_is_killed_as_it_gets_the_turn_passes_it_on() -> None:
    turns, order = Turns(), []
    holder = held(turns, 1)
    doomed, other = queue(turns, order, 100, 200)
    holder.give()  # the turn is doomed's now
    doomed.kill()
    other.join()
    assert order[-1] == 200
    held(turns, 5).give()
