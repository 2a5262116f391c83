"""The revision of what the coordinator knows, and waiting for the next one.

Why: gateways and the controller follow the coordinator by one blocking request
each, and must hear of a new round within milliseconds, but not of every single
update: quick successions of small changes become one revision. A revision's
answer is made once, however many wait for it. It must not know what is in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Revisions:
    """A counter to wait on. Safe for several threads.

    It starts at the time in milliseconds, so that a successor's numbers are
    higher than its predecessor's. ``waiting`` says how many wait.
    """

    def __init__(self, build: Callable[[int], bytes]) -> None:
        self._build = build
        self._changed = threading.Condition()
        self._building = threading.Lock()
        self._revision = time.time_ns() // 1_000_000
        self._soon: float | None = None
        self._closed = False
        self.waiting = 0
        self._answer: tuple[int, bytes] = (0, b"")

    @property
    def revision(self) -> int:
        """Return the present revision."""
        return self._revision

    def bump(self) -> None:
        """Something changed that watchers must know now."""
        with self._changed:
            self._revision += 1
            self._soon = None
            self._changed.notify_all()

    def bump_within(self, seconds: float) -> None:
        """Something changed that watchers should know within ``seconds``."""
        at = time.monotonic() + seconds
        with self._changed:
            if self._soon is None or at < self._soon:
                self._soon = at
                self._changed.notify_all()

    def wait(self, since: int, timeout: float) -> int:
        """Return the revision once it is not ``since``, or after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self.waiting += 1
            try:
                self._wait(since, deadline)
            finally:
                self.waiting -= 1
            return self._revision

    def _wait(self, since: int, deadline: float) -> None:
        while self._revision == since and not self._closed:
            now = time.monotonic()
            if self._soon is not None and now >= self._soon:
                self._revision += 1
                self._soon = None
                self._changed.notify_all()
                return
            if now >= deadline:
                return
            until = deadline if self._soon is None else min(deadline, self._soon)
            self._changed.wait(until - now)

    def answer(self) -> bytes:
        """Return the answer to a watch, as of now; a later change has a later revision."""
        with self._building:
            revision = self._revision
            if self._answer[0] != revision:
                self._answer = (revision, self._build(revision))
            return self._answer[1]

    def close(self) -> None:
        """Let all who wait go; later waits return at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
