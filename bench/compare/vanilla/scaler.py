"""How many replicas a service should have: the decision of Knative's stock autoscaler (KPA).

Why: the vanilla side must scale as Knative Serving does, and the decision can only be checked
where it is pure: observed concurrency in, a number of replicas out. It must not start anything.

Formula: ``knative.dev/serving/pkg/autoscaler/scaling/autoscaler.go``, ``Scale``, with the
defaults of ``config-autoscaler`` (stable window 60 s, panic window a tenth of it, panic threshold
200 %, at most 1000 times as many and half as few at once). Concurrency is averaged over a
stable and a panic window; ``ceil(average / target)`` are wanted; when what the panic window wants
is twice what is ready it *panics*: the larger of both counts, and none is taken away until a
stable window has passed without it. Left out: burst capacity, activation scale, scale-down
delay (off by default).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """What a service asks for; seconds, and requests a replica. ``most`` 0 means no limit."""

    target: float = 2.0
    stable_window: float = 60.0
    panic_window: float = 6.0
    panic_threshold: float = 2.0
    up_rate: float = 1000.0
    down_rate: float = 2.0
    most: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered between decisions; ``panicked`` is None outside of panic."""

    panicked: float | None = None
    panic_most: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be, and what to remember."""

    wanted: int
    state: State


@dataclass(frozen=True, slots=True)
class Seen:
    """The windows' average concurrency, and how many replicas serve."""

    stable: float
    panic: float
    ready: int


def decide(now: float, seen: Seen, state: State, settings: Settings) -> Decision:
    """Return the decision at ``now`` (seconds, any clock)."""
    base = max(1, seen.ready)
    up = math.ceil(settings.up_rate * base)
    down = math.floor(base / settings.down_rate)
    by_stable = math.ceil(seen.stable / settings.target)
    by_panic = math.ceil(seen.panic / settings.target)
    wanted = min(max(by_stable, down), up)
    over = by_panic / base >= settings.panic_threshold
    panicked, panic_most = state.panicked, state.panic_most
    if over:
        panicked = now
    elif panicked is not None and panicked + settings.stable_window < now:
        panicked, panic_most = None, 0
    if panicked is not None:
        wanted = panic_most = max(wanted, min(max(by_panic, down), up), panic_most)
    if settings.most:
        wanted = min(wanted, settings.most)
    return Decision(wanted, State(panicked, panic_most))


class Concurrency:
    """A count of requests over time, and its averages over windows up to now.

    ``keep`` seconds are remembered. As in Knative a window that is not full yet is averaged
    over what there is, and after ``keep`` seconds of nothing it begins anew.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._since: deque[tuple[float, int]] = deque()

    @property
    def now(self) -> int:
        """Return the count that was set last."""
        return self._since[-1][1] if self._since else 0

    def set(self, at: float, count: int) -> None:
        """Say that from ``at`` on there are ``count`` requests."""
        if len(self._since) and self.now == 0 and at - self._since[-1][0] >= self._keep:
            self._since.clear()
        if not self._since and count == 0:
            return
        self._since.append((at, count))
        while len(self._since) > 1 and self._since[1][0] <= at - self._keep:
            self._since.popleft()

    def average(self, at: float, window: float) -> float:
        """Return the mean count over the ``window`` seconds before ``at``."""
        if not self._since:
            return 0.0
        begin = max(self._since[0][0], at - window)
        if at <= begin:
            return float(self.now)
        return _integral(self._since, begin, at) / (at - begin)


def _integral(since: Iterable[tuple[float, int]], begin: float, end: float) -> float:
    total = 0.0
    earlier: tuple[float, int] | None = None
    for moment in (*since, (end, 0)):
        if earlier is not None:
            total += earlier[1] * max(0.0, min(moment[0], end) - max(earlier[0], begin))
        earlier = moment
    return total
