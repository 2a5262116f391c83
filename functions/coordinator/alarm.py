"""One thread that does what is due, and sleeps until something else is.

Why: deadlines, graces and silent nodes are few; a thread that wakes for the
next of them costs nothing while nothing is due. It must not know what is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from lifl.errors import LiflError

log = logging.getLogger("lifl.coordinator")

OVERSLEPT_SECONDS = 1.0
RETRY_SECONDS = 1.0


class Alarm:
    """Calls ``tick``, which returns how many seconds may pass before its next call.

    ``overslept`` is told when the process did not run for a while: silence in
    that time was nobody's fault but its own.
    """

    def __init__(self, tick: Callable[[], float], overslept: Callable[[float], None]) -> None:
        self._tick = tick
        self._overslept = overslept
        self._changed = threading.Condition()
        self._rung: float | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="alarm", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ring(self, within: float = 0.0) -> None:
        """Have ``tick`` called ``within`` seconds: something may be due earlier than it said."""
        at = time.monotonic() + within
        with self._changed:
            if self._rung is None or at < self._rung:
                self._rung = at
                self._changed.notify()

    def close(self) -> None:
        """End the thread and wait for it."""
        self._closed = True
        self.ring()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            try:
                pause = self._tick()
            except LiflError as e:
                log.warning("what is due will be tried again: %s", e)
                pause = RETRY_SECONDS
            late = self._sleep(time.monotonic() + pause)
            if late > OVERSLEPT_SECONDS:
                self._overslept(late)

    def _sleep(self, until: float) -> float:
        """Wait until it rings, at the latest ``until``; return how many seconds it is later."""
        with self._changed:
            while not self._closed:
                rung = until if self._rung is None else min(until, self._rung)
                left = rung - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._rung = None
        return time.monotonic() - until
