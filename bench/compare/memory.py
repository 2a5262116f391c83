"""What a group's memory was over time: a thread that asks every 20 ms.

Why: the kernel's own high-water mark counts pages of files too, and starts at the group's
birth; a plot needs the time as well. It must not know how a group counts.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from bench.compare.api import Group

PERIOD_SECONDS = 0.02
_SHARE = 5
"""A sample is followed by at least so many times what it took, where samples are dear."""


class Sampler:
    """Records a group's memory while it is entered.

    ``samples`` are (seconds since it was entered, bytes), in order. The first is taken on entry
    and the last on exit, whatever the period. Between two samples a peak can be missed.
    """

    def __init__(self, group: Group, period: float = PERIOD_SECONDS) -> None:
        self.samples: list[tuple[float, int]] = []
        self._group = group
        self._period = period
        self._stop = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="memory sampler", daemon=True)
        self._start = 0.0

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it; raises what asking the group raised, unless the block raises itself."""
        self._stop.set()
        self._thread.join()
        if self._failed is None:
            self._sample()
        elif kind is None:
            raise self._failed

    @property
    def peak(self) -> int:
        """The most bytes seen."""
        return max(n for _, n in self.samples)

    def series(self, points: int = 300) -> list[tuple[float, int]]:
        """Return at most ``points`` samples for a plot: of each stretch of time the highest."""
        return thinned(self.samples, points)

    def _run(self) -> None:
        pause = self._period
        while not self._stop.wait(pause):
            before = time.monotonic()
            try:
                self._sample()
            except Exception as e:  # told at the end
                self._failed = e
                return
            pause = max(self._period, _SHARE * (time.monotonic() - before))

    def _sample(self) -> None:
        now = time.monotonic() - self._start
        self.samples.append((now, self._group.memory()))


def thinned(samples: list[tuple[float, int]], points: int) -> list[tuple[float, int]]:
    """Return at most ``points`` of ``samples``, in order: the highest of each stretch of time.

    Raises
    ------
    ValueError
        unless ``points`` is at least 1.
    """
    if points < 1:
        raise ValueError(f"{points} points are none to plot")
    if len(samples) <= points:
        return list(samples)
    first, last = samples[0][0], samples[-1][0]
    width = (last - first) / points or 1.0
    highest: dict[int, tuple[float, int]] = {}
    for sample in samples:
        stretch = min(points - 1, int((sample[0] - first) / width))
        if stretch not in highest or sample[1] > highest[stretch][1]:
            highest[stretch] = sample
    return [highest[stretch] for stretch in sorted(highest)]
