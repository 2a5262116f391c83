"""How long a run is expected to take, part by part, and what is not begun when time is over.

Why: a run that is cut off by whoever waits has no report, so it has to know beforehand what fits.
Expectations are rough: seconds of few runs on two cores, put down here to plan with,
never shown as a result. What each part really took stands in ``rounds.json`` beside what was
expected, so that the next trimming is by figures. It must not run anything.

On two cores and 24 GB they add up to 230 s for the quick run and 46 minutes for the full one, which
``tests/unit/bench/compare/test_budget.py`` holds them to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from bench.compare import workloads
from bench.compare.workloads import Workload
from bench.sizes import BYTES

QUICK_SECONDS, FULL_SECONDS = 290.0, 3480.0
"""When nothing more is begun: the report takes some seconds, five minutes and an hour are meant."""
UP: Mapping[str, float] = {
    "lifl": 5.0,
    "lifl-socket": 5.0,
    "lifl-durable": 5.0,
    "lifl-tree": 5.0,
    "step": 10.5,
    "serverful": 3.0,
    "serverful-flat": 3.0,
    "vanilla": 3.0,
    "vanilla-warm": 4.0,
    "flower": 8.0,
    "flower-inprocess": 4.0,
    "nvflare": 10.0,
}
"""Seconds to start a side and to end it; five nodes for a step of the ablation."""
PLAY: Mapping[str, tuple[float, float]] = {
    "lifl": (0.2, 0.0009),
    "lifl-socket": (0.2, 0.0009),
    "lifl-durable": (0.2, 0.0011),
    "lifl-tree": (0.2, 0.0009),
    "step": (0.4, 0.002),
    "serverful": (0.2, 0.0013),
    "serverful-flat": (0.2, 0.0009),
    "vanilla": (1.2, 0.0085),
    "vanilla-warm": (0.5, 0.006),
    "flower": (8.0, 0.067),
    "flower-inprocess": (0.5, 0.006),
    "nvflare": (4.0, 0.0115),
}
"""Seconds of a round, and for each MB that clients send. Within are the checks after it and, of
the peers, the model's way to the clients before it."""
REFERENCES = 26.0
"""Seconds in which always-on and vanilla are held to what is published, once a run."""
PARTS: Mapping[str, tuple[float, float]] = {
    "train-digits": (32.0, 59.0),
    "train-resnet18": (0.0, 470.0),
    "handoff": (17.0, 25.0),
    "audit": (17.0, 153.0),
    "sim": (24.0, 45.0),
}
"""Seconds of what is no workload by itself, in the quick and in the full run; a training is with
the rounds that sides play of it."""


def kind(side: str) -> str:
    """Return the side's name in the tables of this module."""
    return "step" if side.startswith("step-") else side


def expected(workload: Workload, available: int) -> float:
    """Return the seconds that a workload should take; see ``workloads.choose`` for ``available``.

    Sides that would be left out for want of memory take none.
    """
    load = workload.load
    left_out = workloads.choose(workload, BYTES.get(load.model, 0), available).left_out
    sent = load.clients * BYTES.get(load.model, 0) / 1e6
    wait = max(load.arrivals, default=0.0)
    total = 0.0
    for side in set(workload.sides) - set(left_out):
        fixed, per_mb = PLAY[kind(side)]
        # what is summed while others still arrive costs no time of its own
        play = fixed + max(per_mb * sent, wait)
        total += workload.passes * UP[kind(side)] + workload.plays(side) * play
    return total


class Budget:
    """The seconds a run may take, and what its parts took.

    ``limit`` None never refuses. ``clock`` gives seconds. Expectations are stretched by as much as
    the parts so far took longer, so that a slow machine stops in time too.
    """

    def __init__(self, limit: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.parts: list[dict[str, Any]] = []
        self._limit = limit
        self._clock = clock
        self._start = clock()

    def refusal(self, seconds: float) -> str:
        """Return why a part of so many expected seconds is not begun; nothing if it is."""
        if self._limit is None:
            return ""
        spent, need = self._clock() - self._start, seconds * self._pace()
        if spent + need <= self._limit:
            return ""
        return (
            f"time was over: {spent:.0f} of {self._limit:.0f} s had passed, and it was expected to "
            f"take {need:.0f} s"
        )

    def took(self, name: str, expected: float, seconds: float, copying: float) -> None:
        """Note what a part took, and how fast memory was copied when it began (GB/s)."""
        numbers = {"expected": expected, "seconds": seconds, "copying": copying}
        self.parts.append({"name": name} | {k: round(v, 1) for k, v in numbers.items()})

    def _pace(self) -> float:
        planned = sum(p["expected"] for p in self.parts)
        taken = sum(p["seconds"] for p in self.parts)
        return float(max(1.0, taken / planned)) if planned else 1.0
