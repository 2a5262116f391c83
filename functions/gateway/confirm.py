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
from lifl.client.http import HttpClient, raise_for_status
from lifl.errors import Unavailable

BODY_BYTES = 512
"""Announced before the body is known, so it is filled up with spaces."""
BEGUN_SECONDS = 0.02
"""Seconds that a question that was begun may wait for its end."""


class Confirmation:
    """The question whether one claim's update counts."""

    def __init__(self, coordinator: HttpClient) -> None:
        self._coordinator = coordinator
        self._begun: Later[None] | None = None
        self._body = b""
        self._known = Event()

    def begin(self, serial: int) -> None:
        """Send the question ahead; nothing happens if that was done. A claim has one serial."""
        if self._begun is None:
            self._begun = Later(lambda: self._send(serial))

    def ask(self, serial: int, counted: dict[str, Any]) -> None:
        """Return once the update counts, however long the coordinator takes.

        Raises
        ------
        HttpError
            if it does not.
        """
        self._body = json.dumps(counted, separators=(",", ":")).encode().ljust(BODY_BYTES)
        self._known.set()
        if self._begun is not None:
            with contextlib.suppress(Unavailable):
                self._begun.get()
                return
        patiently(lambda: self._coordinator.json("POST", _path(serial), counted))

    def _send(self, serial: int) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(BODY_BYTES)}
        path, body = _path(serial), self._rest()
        answer = self._coordinator.request("POST", path, body=body, headers=headers)
        raise_for_status(answer)

    def _rest(self) -> Iterator[bytes]:
        """Yield the body; an error here closes the connection, and nothing was asked."""
        if not self._known.wait(BEGUN_SECONDS):
            raise TimeoutError("the update's end did not come at once")
        if len(self._body) != BODY_BYTES:
            raise TimeoutError("the body is longer than announced")
        yield self._body


def _path(serial: int) -> str:
    return f"/internal/v1/claims/{serial}/sealed"
