"""When to try again: exponential backoff with full jitter, or what the server asks for.

Why: many clients that fail at one moment must not come back at one moment.
Full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
2015) draws each pause from zero to a bound that doubles. It must not know what
is tried.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from lifl.client.http import HttpError, NotRouted
from lifl.errors import TemporaryError

T = TypeVar("T")

log = logging.getLogger("lifl.client")


def was_answered(error: TemporaryError) -> bool:
    """Return whether a server answered (and asked to wait), or nobody did."""
    return isinstance(error.__cause__, HttpError)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Bounds of the pauses, in seconds."""

    base: float = 0.25
    cap: float = 15.0

    def delay(self, attempt: int, hint: float | None, draw: float) -> float:
        """Return the pause before trying again.

        ``attempt`` counts failures from 0, ``draw`` is uniform in [0, 1).
        Without a hint: ``draw · min(cap, base · 2**attempt)``. With the
        server's ``Retry-After`` as ``hint``, at least that and up to twice as
        much, so that those it sent away together come back apart.
        """
        if hint is not None:
            return hint + draw * max(hint, self.base)
        return draw * min(self.cap, self.base * 2.0 ** min(attempt, 60))


@dataclass(frozen=True)
class Retry:
    """How long to keep trying; ``patience`` is in seconds from the first try."""

    patience: float = 300.0
    backoff: Backoff = field(default_factory=Backoff)
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random

    def start(self) -> Attempts:
        """Begin a series of tries."""
        return Attempts(self)

    def run(self, call: Callable[[], T]) -> T:
        """Return the first answer of ``call``.

        Raises
        ------
        TemporaryError
            the last one, once patience is at its end.
        """
        attempts = self.start()
        while True:
            try:
                return call()
            except TemporaryError as e:
                attempts.pause(e)


class Attempts:
    """One series of tries."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._began = retry.clock()
        self._failed = 0

    def pause(self, error: TemporaryError) -> None:
        """Sleep before the next try, or raise ``error`` if patience would end meanwhile."""
        hint = error.retry_after if was_answered(error) else None
        wait = self._retry.backoff.delay(self._failed, hint, self._retry.draw())
        if self._retry.clock() + wait - self._began > self._retry.patience:
            raise error
        self._failed += 1
        if isinstance(error, NotRouted):  # who waits for a wrong URL should know
            log.warning("%s; trying again in %.1f s", error, wait)
        self._retry.sleep(wait)
