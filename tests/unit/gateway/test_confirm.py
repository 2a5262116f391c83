"""A question that was begun is finished at once, or given up and put as a whole."""

from __future__ import annotations

import json
from email.message import Message
from typing import Any, cast

import gevent
import pytest

from functions.gateway import confirm
from functions.gateway.confirm import Confirmation
from lifl.client.ahead import Answer, Asker
from lifl.errors import Unavailable

END = {"slot": 65535, "generation": 4294967295, "digest": "f" * 32}


class FakeQuestion:
    """Notes what it was told; may fail once."""

    def __init__(self, length: int, failing: bool) -> None:
        self.length = length
        self.failing = failing
        self.body: bytes | None = None
        self.given_up = False

    def give_up(self) -> None:
        self.given_up = True

    def finish(self, body: bytes) -> Answer:
        if self.given_up or self.failing:
            raise Unavailable("no answer")
        assert len(body) == self.length
        self.body = body
        return Answer(204, Message(), b"")


class FakeAsker:
    def __init__(self, *, at_hand: bool = True, failing: int = 0) -> None:
        self.at_hand = at_hand
        self.failing = failing
        self.questions: list[FakeQuestion] = []

    def begin(self, path: str, length: int) -> FakeQuestion:
        assert path == "/q"
        self.questions.append(FakeQuestion(length, len(self.questions) < self.failing))
        return self.questions[-1]


def question(asker: FakeAsker) -> Confirmation:
    return Confirmation(cast(Asker, asker), "/q", {"job": "digits"})


def told(asked: FakeQuestion) -> Any:
    return json.loads(asked.body or b"null")


def test_the_longest_end_fits_what_was_announced() -> None:
    asker = FakeAsker()
    asking = question(asker)
    asking.begin()
    asking.begin()
    asking.ask(END)
    (only,) = asker.questions
    assert told(only) == {"job": "digits"} | END


def test_nothing_is_begun_that_would_wait_for_a_connection() -> None:
    asker = FakeAsker(at_hand=False)
    asking = question(asker)
    asking.begin()
    assert asker.questions == []
    asking.ask(END)
    assert told(asker.questions[0]) == {"job": "digits"} | END


def test_an_end_that_does_not_come_at_once_leaves_no_open_question() -> None:
    asker = FakeAsker()
    asking = question(asker)
    asking.begin()
    gevent.sleep(confirm.BEGUN_SECONDS * 2)
    assert asker.questions[0].given_up
    asking.ask(END)
    assert [q.body is not None for q in asker.questions] == [False, True]


def test_an_end_that_is_too_long_leaves_no_open_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm, "END_BYTES", 4)
    asker = FakeAsker()
    asking = question(asker)
    asking.begin()
    asking.ask(END)
    begun, whole = asker.questions
    assert begun.given_up and begun.body is None
    assert told(whole) == {"job": "digits"} | END


def test_a_question_without_an_answer_is_put_again() -> None:
    asker = FakeAsker(failing=2)
    asking = question(asker)
    asking.begin()
    asking.ask(END)
    assert told(asker.questions[2]) == {"job": "digits"} | END
