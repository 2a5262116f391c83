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
from collections.abc import Iterator
from typing import Any

from gevent.event import Event

from functions.gateway.later import Later, patiently
from lifl.client.http import HttpClient, Response, raise_for_status
from lifl.errors import Unavailable

END_BYTES = 160
"""Room for what is known at the end only: the body's length is announced before, and filled up."""
BEGUN_SECONDS = 0.02
"""Seconds that a question that was begun may wait for its end."""


class Confirmation:
    """The question, at ``path``, whether one update counts.

    ``known`` is what can be said before the update's end.
    """

    def __init__(self, coordinator: HttpClient, path: str, known: dict[str, Any]) -> None:
        self._coordinator = coordinator
        self._path = path
        self._known = known
        self._length = len(_dump(known)) + END_BYTES
        self._begun: Later[Response] | None = None
        self._body = b""
        self._ended = Event()

    def begin(self) -> None:
        """Send the question ahead; nothing happens if that was done."""
        if self._begun is None:
            self._begun = Later(lambda: self._send(self._rest()))

    def ask(self, end: dict[str, Any]) -> Response:
        """Return the answer that the update counts, however long the coordinator takes.

        Raises
        ------
        HttpError
            if it does not.
        """
        self._body = _dump(self._known | end).ljust(self._length)
        self._ended.set()
        if self._begun is not None:
            with contextlib.suppress(Unavailable):
                return self._begun.get()
        return patiently(lambda: self._send(self._body))

    def _send(self, body: bytes | Iterator[bytes]) -> Response:
        length = len(body) if isinstance(body, bytes) else self._length
        headers = {"Content-Type": "application/json", "Content-Length": str(length)}
        answer = self._coordinator.request("POST", self._path, body=body, headers=headers)
        raise_for_status(answer)
        return answer

    def _rest(self) -> Iterator[bytes]:
        """Yield the body; an error here closes the connection, and nothing was asked."""
        if not self._ended.wait(BEGUN_SECONDS):
            raise TimeoutError("the update's end did not come at once")
        if len(self._body) != self._length:
            raise TimeoutError("the body is longer than announced")
        yield self._body


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
