"""Calls that end later: beside their caller, or when the platform answers again.

Why: gevent prints the traceback of every greenlet that fails; a refused claim
is an answer, not a fault of this program. And some questions need an answer,
however long it takes. It must not know what is called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import gevent

from lifl.errors import TemporaryError

log = logging.getLogger("lifl.gateway")

BACKOFF_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5)
T = TypeVar("T")


class Later(Generic[T]):
    """``call()`` started in a greenlet."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._value: list[T] = []
        self._error: Exception | None = None
        self._greenlet = gevent.spawn(self._run, call)

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self._value.append(call())
        except Exception as e:
            self._error = e

    @property
    def ended(self) -> bool:
        """Whether there is an outcome."""
        return bool(self._value) or self.failed

    @property
    def failed(self) -> bool:
        """Whether it has ended with an error."""
        return self._error is not None

    def get(self, timeout: float | None = None) -> T:
        """Wait for the outcome; raises its error, or TimeoutError after ``timeout`` seconds."""
        self._greenlet.join(timeout)
        if self._error is not None:
            raise self._error
        if not self._value:
            raise TimeoutError
        return self._value[0]


def backoff() -> Iterator[float]:
    """Yield how many seconds to wait before each further try, for ever."""
    yield from BACKOFF_SECONDS
    while True:
        yield BACKOFF_SECONDS[-1]


def patiently(call: Callable[[], T]) -> T:
    """Return ``call()``, again and again while it raises TemporaryError."""
    pauses = backoff()
    while True:
        try:
            return call()
        except TemporaryError as e:
            log.warning("trying again: %s", e)
            gevent.sleep(next(pauses))
