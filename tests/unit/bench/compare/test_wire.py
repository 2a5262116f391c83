from __future__ import annotations

import os

import pytest

from bench.compare.wire import Wire, pair


def test_messages_cross_both_ways():
    mine, fd = pair("somebody")
    theirs = Wire(fd)
    mine.tell(do="send", at=1.5)
    assert theirs.hear() == {"do": "send", "at": 1.5}
    theirs.tell(done=True)
    assert mine.hear() == {"done": True}
    mine.close()
    theirs.close()


def test_an_error_of_the_other_side_is_raised_with_its_name():
    mine, fd = pair("client 3")
    theirs = Wire(fd)
    theirs.tell(error="no such round")
    with pytest.raises(RuntimeError, match="client 3: no such round"):
        mine.hear()
    mine.close()
    theirs.close()


def test_silence_ends_the_waiting():
    mine, fd = pair("client 3")
    with pytest.raises(TimeoutError, match="client 3"):
        mine.hear(0.0)
    os.close(fd)
    with pytest.raises(EOFError):
        mine.hear()
    mine.close()
