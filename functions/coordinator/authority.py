"""Which of several coordinators decides: the one that started last.

Why: a rolling update, or a pod that is deleted, has a new coordinator run beside the
old one for a while, and two that decide would count an update twice or commit a version
each. So opening a store takes it over: from then on it refuses every write of whoever
had it before (:class:`Superseded`), in the same transaction that would have made it.
The old one ends at its next write or its next look, whichever is earlier; what it had in
memory is void. It must not decide anything else, and must not know a store.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from lifl.errors import Unavailable

log = logging.getLogger("lifl.coordinator")

LOOK_SECONDS = 2.0
LAPSE_SECONDS = 10.0
"""Who has given no sign for so long does not keep those out that it has superseded."""
STANDBY_SECONDS = 60.0
"""Who was superseded and is started again waits so long for the other to go, then ends."""
SUPERSEDED_STATUS = 3
"""A worker that ends so ends its gunicorn too; after any other a new worker would take over."""


_ending = threading.Lock()


class Superseded(Unavailable):
    """Another coordinator has taken the store over; this one decides nothing any more."""


def ignore(_why: Superseded) -> None:
    """Do nothing but raise: for those who have no process to end."""


def end_process(why: Superseded) -> None:
    """End this process at once; requests in hand break off, and come again to the other."""
    _ending.acquire()  # for good: whoever comes second waits for the end
    log.critical("%s; this one ends", why)
    os._exit(SUPERSEDED_STATUS)


class Guard:
    """Looks every ``seconds`` whether the store is still ours, by ``confirm``, and gives a sign."""

    def __init__(self, confirm: Callable[[], None], seconds: float = LOOK_SECONDS) -> None:
        self._confirm = confirm
        self._seconds = seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="authority", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and wait for it."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._seconds):
            try:
                self._confirm()
            except Superseded:
                return
            except Unavailable as e:  # then nobody can take it over either
                log.debug("the store could not be asked whose it is: %s", e)
