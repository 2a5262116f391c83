"""Which upload is read next."""

from __future__ import annotations

import gevent
import pytest

from functions.gateway import turns as module
from functions.gateway.turns import STREAMING_BYTES, Turn, Turns


def queue(turns: Turns, order: list[int], *sizes: int) -> list[gevent.Greenlet]:
    """Let uploads of ``sizes`` ask for the turn, in this order, and note when each gets it."""

    def upload(size: int) -> None:
        turn = turns.join()
        turn.take(size)
        order.append(size)
        turn.give()

    found = [gevent.spawn(upload, size) for size in sizes]
    gevent.sleep(0)
    return found


def held(turns: Turns, remaining: int) -> Turn:
    turn = turns.join()
    turn.take(remaining)
    return turn


def test_a_lone_upload_never_waits() -> None:
    turn = held(Turns(), 100)
    turn.take(50)
    turn.breathe()
    turn.take(10)
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
    large.take(900)
    assert order == [10]
    large.give()
    gevent.joinall(uploads)
    assert order == [10, 2000]


def test_an_upload_streams_once_it_has_read_much_in_one_turn() -> None:
    turn = held(Turns(), 3 * STREAMING_BYTES)
    turn.take(2 * STREAMING_BYTES + 1)
    assert not turn.streams
    turn.take(2 * STREAMING_BYTES)
    assert turn.streams
    turn.give()
    assert not turn.streams
    turn.take(2 * STREAMING_BYTES)
    assert not turn.streams


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
