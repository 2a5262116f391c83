"""The same trouble is logged once in a while."""

from __future__ import annotations

import logging

import pytest

from controller.complaints import REPEAT_SECONDS, Complaints


def test_words_are_repeated_after_a_while_only(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    complaints = Complaints(lambda: now)
    with caplog.at_level(logging.WARNING, "lifl.controller"):
        assert complaints.say("a")
        assert not complaints.say("a")
        assert complaints.say("b")
        now = REPEAT_SECONDS - 1
        assert not complaints.say("a")
        now = REPEAT_SECONDS
        assert complaints.say("a")
    assert [r.getMessage() for r in caplog.records] == ["a", "b", "a"]
