"""Whose bytes are read next, when several uploads come in fast.

Why: if all uploads are read evenly, all end together, and everything that
follows (adding them up) is left for the end. So one at a time is read, the one
with least left first, and the others' senders are held back by their full
sockets; each update is aggregated while the next arrives. An upload keeps the
turn over a short wait only if its data come about as fast as they can be read; one that
trickles gives it back at once, so slow clients hold up nobody.

It must not do I/O.
"""

from __future__ import annotations

import time

import gevent
from gevent.event import Event

STREAMING_BYTES = 1 << 20
"""Read since the turn began, this many bytes make an upload one that streams."""
PATIENCE = 0.004
"""Seconds that a streaming upload keeps the turn without data."""
AGE = 0.1
"""Seconds after which the longest waiting goes first, however much it has left."""


class Turns:
    """The one turn of a process."""

    def __init__(self) -> None:
        self._holder: Turn | None = None
        self._waiting: list[Turn] = []

    def join(self) -> Turn:
        """Return an upload's place."""
        return Turn(self)

    def acquire(self, turn: Turn) -> None:
        """Make ``turn`` the holder, at once or when its time has come."""
        if self._holder is None:
            self._holder = turn
            return
        turn.since = time.monotonic()
        turn.given.clear()
        self._waiting.append(turn)
        try:
            turn.given.wait()
        except BaseException:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self.release(turn)
            raise

    def release(self, turn: Turn) -> None:
        """Give the turn on if ``turn`` holds it."""
        if self._holder is not turn:
            return
        self._holder = self._next()
        if self._holder is not None:
            self._waiting.remove(self._holder)
            self._holder.given.set()

    def ahead(self, turn: Turn) -> bool:
        """Return whether somebody waits who should go before ``turn``."""
        following = self._next()
        return following is not None and (
            following.remaining < turn.remaining or self._aged(following)
        )

    def held_by(self, turn: Turn) -> bool:
        """Return whether ``turn`` is the holder."""
        return self._holder is turn

    def _next(self) -> Turn | None:
        if not self._waiting:
            return None
        oldest = self._waiting[0]
        return oldest if self._aged(oldest) else min(self._waiting, key=lambda t: t.remaining)

    @staticmethod
    def _aged(turn: Turn) -> bool:
        return time.monotonic() - turn.since > AGE


class Turn:
    """One upload's place; use it from that upload's greenlet only."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._taken = 0
        self.remaining = 0
        self.since = 0.0
        self.given = Event()

    def take(self, remaining: int) -> None:
        """Hold the turn, waiting for it if need be; ``remaining`` bytes are still to come."""
        self.remaining = remaining
        if not self._turns.held_by(self):
            self._turns.acquire(self)
            self._taken = remaining

    def give(self) -> None:
        """Give the turn back; nothing happens without it."""
        self._turns.release(self)

    @property
    def streams(self) -> bool:
        """Whether this upload holds the turn and has used it well."""
        used = self._taken - self.remaining
        return self._turns.held_by(self) and used >= STREAMING_BYTES

    def breathe(self) -> None:
        """Let other events run, and uploads that should go first; call it between pieces."""
        if self._turns.held_by(self) and self._turns.ahead(self):
            self.give()
            self.take(self.remaining)
        gevent.sleep(0)
