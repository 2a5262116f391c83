"""Asking the coordinator to count an update.

Why: everything waits for this answer, the last update's whole round too. So
while the end of a fast upload comes in, the question's head is sent ahead: the
coordinator has parsed it, checked who asks and waits in the right place when the
body, with the update's digest, follows. A question that was begun and is not
finished at once is given up, so that nobody can hold the coordinator's threads; it
is then put as a whole. The coordinator takes the same question again.

It must not know what an update is.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import gevent

from functions.gateway.later import patiently
from lifl.client.ahead import Answer, Asker, Question
from lifl.client.http import raise_for_status
from lifl.errors import Unavailable

END_BYTES = 160
"""Room for what is known at the end only: the body's length is announced before, and filled up."""
BEGUN_SECONDS = 0.02
"""Seconds that a question that was begun may wait for its end."""


class Confirmation:
    """The question, at ``path``, whether one update counts.

    ``known`` is what can be said before the update's end.
    """

    def __init__(self, coordinator: Asker, path: str, known: dict[str, Any]) -> None:
        self._coordinator = coordinator
        self._path = path
        self._known = known
        self._length = len(_dump(known)) + END_BYTES
        self._begun: Question | None = None
        self._giving_up: gevent.Greenlet | None = None

    def begin(self) -> None:
        """Send the question ahead; nothing happens if that was done or would take a while."""
        if self._begun is None and self._coordinator.at_hand:
            with contextlib.suppress(Unavailable):
                self._begun = self._coordinator.begin(self._path, self._length)
                self._giving_up = gevent.spawn_later(BEGUN_SECONDS, self._begun.give_up)

    def give_up(self) -> None:
        """Take a question back that was begun."""
        if self._begun is not None:
            self._begun.give_up()

    def ask(self, end: dict[str, Any]) -> Answer:
        """Return the answer that the update counts, however long the coordinator takes.

        Raises
        ------
        HttpError
            if it does not.
        """
        body = _dump(self._known | end).ljust(self._length)
        if self._giving_up is not None:
            self._giving_up.kill(block=False)
        if self._begun is not None:
            if len(body) > self._length:  # nobody would give it up any more
                self._begun.give_up()
            with contextlib.suppress(Unavailable):
                return _checked(self._begun.finish(body))
        return patiently(lambda: self._put(body))

    def _put(self, body: bytes) -> Answer:
        return _checked(self._coordinator.begin(self._path, len(body)).finish(body))


def _checked(answer: Answer) -> Answer:
    raise_for_status(answer)
    return answer


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
