"""A kernel that shares one call among several threads.

Why: while updates come in the processors have enough to do, and one thread a sum
is right. When the last one is in, everybody waits for a leaf, then for the top, one
after the other, and a processor that idles meanwhile could carry half of it: a
core reads memory no faster than it can, two cores twice as fast. It must not
decide when there is a hurry.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from functions.aggregator.blas import F32, Kernel, Term

SHARE = 1 << 19
"""Fewer elements (2 MB) a thread are not worth waking it."""
ALIGN = 1 << 10
"""Elements; shares begin on a page, so no two threads write into one cache line."""
MOST = 8
"""Threads; memory is not faster with more."""


def processors() -> int:
    """Return how many threads a hurried sum takes by default: the processors it may use."""
    return min(MOST, len(os.sched_getaffinity(0)))


class Team:
    """``threads`` threads, the caller's included, that use ``kernel`` on parts of the vectors."""

    def __init__(self, kernel: Kernel, threads: int) -> None:
        self.name = f"{kernel.name}, {threads} threads"
        self._kernel = kernel
        self._threads = max(1, threads)
        self._helpers = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="sum")

    def close(self) -> None:
        """End the threads."""
        self._helpers.shutdown()

    def axpby(self, a: float, x: F32, b: float, y: F32) -> None:
        """Compute ``y = a*x + b*y``; raises ValueError if the vectors differ in length."""
        self.add([(a, x)], b, y)

    def add(self, terms: Sequence[Term], b: float, y: F32) -> None:
        """Compute ``y = Σ aᵢ*xᵢ + b*y``; raises ValueError if the vectors differ in length."""
        for _, x in terms:
            if len(x) != len(y):
                raise ValueError(f"{len(x)} elements do not fit {len(y)}")

        def share(part: slice) -> None:
            self._kernel.add([(a, x[part]) for a, x in terms], b, y[part])

        first, *others = self._shares(len(y))
        waiting = [self._helpers.submit(share, part) for part in others]
        try:
            share(first)
        finally:
            _all(waiting)

    def scale(self, b: float, y: F32) -> None:
        """Compute ``y = b*y``."""
        first, *others = self._shares(len(y))
        waiting = [self._helpers.submit(self._kernel.scale, b, y[s]) for s in others]
        try:
            self._kernel.scale(b, y[first])
        finally:
            _all(waiting)

    def _shares(self, elements: int) -> list[slice]:
        parts = max(1, min(self._threads, elements // SHARE))
        step = -(-elements // parts // ALIGN) * ALIGN if parts > 1 else elements
        return [slice(i * step, min((i + 1) * step, elements)) for i in range(parts)]


def _all(waiting: list[Future[None]]) -> None:
    """Wait for every thread: none may write into memory that is given back; then raise."""
    for future in waiting:
        future.exception()
    for future in waiting:
        future.result()
