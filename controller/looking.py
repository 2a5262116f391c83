"""A thread that looks again and again: when it is woken, and from time to time anyway.

Why: scheduler, autoscaler and the keeper of gateways all look at everything, decide and act;
what fails is simply still to be done at the next look. Many wakes make one look, and a
pause after each bounds what looking costs. It must not know what is looked at.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from lifl.errors import LiflError

log = logging.getLogger("lifl.controller")


class Looking:
    """Calls ``step`` in a thread of its own from :meth:`start` until :meth:`stop`.

    The first look is at once. After one that took so many seconds ``pause`` says how long
    nothing at all is done, and ``patience`` how long a wake is waited for, in seconds.
    ``failed`` is told of errors of the project's own; any other is logged, and the thread
    goes on: without it nothing would be done any more.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], object],
        *,
        pause: Callable[[float], float],
        patience: Callable[[], float],
        failed: Callable[[LiflError], object],
    ) -> None:
        self._name = name
        self._step = step
        self._pause = pause
        self._patience = patience
        self._failed = failed
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def ended(self) -> bool:
        """Say whether it was told to end: what takes long need not be begun."""
        return self._ended.is_set()

    def wake(self) -> None:
        """Look again: something changed. For any thread."""
        self._changed.set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the look that is under way; it may not have begun."""
        self._ended.set()
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._changed.clear()
            began = time.monotonic()
            try:
                self._step()
            except LiflError as e:
                self._failed(e)
            except Exception:
                log.exception("the thread %s goes on after an error", self._name)
            self._ended.wait(self._pause(time.monotonic() - began))
            self._changed.wait(self._patience())


def at_most_a_third(least: float, most: float = float("inf")) -> Callable[[float], float]:
    """Return a pause of twice what the look took: looking takes a third of a processor at most.

    It is at least ``least`` and at most ``most`` seconds.
    """
    return lambda took: min(max(least, 2 * took), most)
