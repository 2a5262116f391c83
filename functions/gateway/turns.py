"""Whose bytes are read next, when several uploads come in faster than they can be read.

Why: if all were read evenly, all would end together, and everything that
follows (adding them up) would be left for the end. So one at a time is read, the one
with least left first, and the others' senders are held back by their full
sockets; each update is aggregated while the next arrives. Only an upload that streams
takes part: one that comes in fast and was read for a while without a pause. Slow
ones, however many, are read as their bytes come: they neither wait here nor hold
anybody up, even if much of them has piled up because the gateway is busy.

It must not do I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gevent.event import Event

from functions.gateway.pauses import let_others_run

STREAMING_BYTES = 1 << 20
"""Read without a pause, this many bytes make an upload one that streams."""
STREAMING_RATE = 10e6
"""Bytes per second, on average since it began, of an upload that streams."""
PATIENCE = 0.004
"""Seconds without data that are no pause yet; the holder of the turn keeps it so long."""
AGE = 0.5
"""Seconds after which the longest waiting goes first, however much it has left."""
HOLD = 0.5
"""Seconds for which one whose time came by age keeps the turn, and after which it is due again."""
CROWD = 0.005
"""Seconds that others run at a time when there are many of them."""
SHARE = 0.02
"""Most seconds that the holder works without letting such a crowd, which had as long, go on."""


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
            self._give_to(turn, by_age=False)
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
        self._holder = None
        turn.streams = False
        following = self._next()
        if following is not None:
            self._waiting.remove(following)
            self._give_to(following, by_age=self._aged(following))
            following.given.set()

    def ahead(self, turn: Turn) -> bool:
        """Return whether somebody waits who should go before ``turn``, which holds it."""
        following = self._next()
        if following is None:
            return False
        if turn.by_age or self._aged(following):
            return time.monotonic() - turn.began > HOLD
        return following.remaining < turn.remaining

    def _give_to(self, turn: Turn, *, by_age: bool) -> None:
        self._holder = turn
        turn.streams = True
        turn.began, turn.by_age = time.monotonic(), by_age

    def _next(self) -> Turn | None:
        if not self._waiting:
            return None
        oldest = self._waiting[0]
        return oldest if self._aged(oldest) else min(self._waiting, key=lambda t: t.remaining)

    @staticmethod
    def _aged(turn: Turn) -> bool:
        return time.monotonic() - turn.since > AGE


class Turn:
    """One upload's place; use it from that upload's greenlet only.

    ``streams`` says whether it holds the turn.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._started = time.monotonic()
        self._burst = 0
        self.streams = False
        self.remaining = 0
        self.since = 0.0
        self.began = 0.0
        self.by_age = False
        self._until = 0.0
        self.given = Event()

    def take(self, remaining: int, arrived: Callable[[], int]) -> None:
        """Hold the turn if this upload streams, waiting for it if need be; call it before a read.

        ``remaining`` bytes are still to be read; ``arrived`` tells how many have
        come so far, read or not.
        """
        self.remaining = remaining
        if self._burst < STREAMING_BYTES or self.streams:
            return
        elapsed = time.monotonic() - self._started
        if arrived() >= STREAMING_RATE * elapsed:
            self._turns.acquire(self)
        else:
            self._burst = 0
            let_others_run()

    def read(self, count: int) -> None:
        """Note that ``count`` bytes were read."""
        self._burst += count

    def paused(self) -> None:
        """Note that no data came for longer than :data:`PATIENCE`."""
        self._burst = 0
        self.give()

    def give(self) -> None:
        """Give the turn back; nothing happens without it."""
        self._turns.release(self)

    @property
    def share_left(self) -> float:
        """Return for how many seconds the holder need not let others run."""
        return self._until - time.monotonic() if self.streams else 0.0

    def breathe(self) -> None:
        """Let other events run, and uploads that should go first; call it between pieces.

        If a crowd of others is ready, that takes long; the holder then reads for as
        long as they took before it lets them run again.
        """
        if self.streams and self._turns.ahead(self):
            self.give()
            self._turns.acquire(self)
        if self.share_left > 0:
            return
        began = time.monotonic()
        let_others_run()
        took = time.monotonic() - began
        self._until = began + took + min(took, SHARE) if took > CROWD else 0.0
