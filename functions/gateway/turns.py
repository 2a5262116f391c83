"""Whose bytes are read next, when several uploads have some waiting.

Why: one core can copy only so fast. If all uploads share it evenly they all
finish at the end; if the one with least left goes first, the mean time to
finish nearly halves, the last one finishes no later, and aggregation of the
first starts while the others still arrive. An upload holds the turn only while
it can read without waiting, and lets other events in between every few
milliseconds. It must not do I/O.
"""

from __future__ import annotations

import heapq
import itertools
import time

import gevent
from gevent.event import Event

QUANTUM = 0.004  # seconds between two looks at other events


class Turns:
    """The one turn of a process."""

    def __init__(self, quantum: float = QUANTUM) -> None:
        self.quantum = quantum
        self.holder: Turn | None = None
        self.waiting: list[tuple[int, int, Turn]] = []
        self.order = itertools.count()

    def join(self, remaining: int) -> Turn:
        """Return an upload's place; ``remaining`` is how many bytes it still expects."""
        return Turn(self, remaining)


class Turn:
    """One upload's place. Its owner sets ``remaining`` as bytes come in."""

    def __init__(self, turns: Turns, remaining: int) -> None:
        self.remaining = remaining
        self._turns = turns
        self._given = Event()
        self._since = 0.0

    def acquire(self) -> None:
        """Wait until no other upload holds the turn; those with less left go first."""
        turns = self._turns
        if turns.holder is self:
            return
        if turns.holder is not None:
            self._given.clear()
            heapq.heappush(turns.waiting, (self.remaining, next(turns.order), self))
            try:
                self._given.wait()
            except BaseException:  # killed while waiting: leave no ghost in the queue
                if turns.holder is self:
                    self.release()
                else:
                    turns.waiting = [w for w in turns.waiting if w[2] is not self]
                    heapq.heapify(turns.waiting)
                raise
        turns.holder = self
        self._since = time.monotonic()

    def release(self) -> None:
        """Give the turn to whoever has least left; nothing happens if it is not held."""
        turns = self._turns
        if turns.holder is not self:
            return
        turns.holder = None
        if turns.waiting:
            turns.holder = heapq.heappop(turns.waiting)[2]
            turns.holder._given.set()

    def breathe(self) -> None:
        """Let other events in if this upload ran long enough, and uploads with less left.

        A body that is read without the turn (a chunked one) may call it too.
        """
        turns = self._turns
        if time.monotonic() - self._since < turns.quantum:
            return
        smaller = turns.waiting and turns.waiting[0][0] < self.remaining
        if turns.holder is self and smaller:
            self.release()
            gevent.sleep(0)
            self.acquire()
        else:
            gevent.sleep(0)
            self._since = time.monotonic()
