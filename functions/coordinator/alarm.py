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
        self._rung = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="alarm", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ring(self) -> None:
        """Have ``tick`` called now: something may be due earlier than it said."""
        with self._changed:
            self._rung = True
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
            asleep = time.monotonic()
            with self._changed:
                if not self._rung:
                    self._changed.wait(pause)
                self._rung = False
            late = time.monotonic() - asleep - pause
            if late > OVERSLEPT_SECONDS:
                self._overslept(late)
