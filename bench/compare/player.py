"""One side that is up, in its group: a round of it, with what the group used and held meanwhile.

Why: how a side is charged (for its rounds alone, or also for what it does between them) is the same
for all and decided here. It must not know which other sides are up, nor what one is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from bench.compare.api import Group
from bench.compare.memory import Sampler
from bench.compare.outcome import Outcome, Played, Side
from bench.compare.sides import Maker

OpenGroup = Callable[[str], contextlib.AbstractContextManager[Group]]
POINTS = 150
"""Of a round's memory over time, at most so many are kept."""


class Player:
    """One side that is up: its system and its group."""

    def __init__(self, side: Side, start: float, *, alone: bool) -> None:
        self.side = side
        self._run_start = start
        self._alone = alone
        self._stack = contextlib.ExitStack()

    def enter(self, open_group: OpenGroup, maker: Maker, outcome: Outcome, document: bytes) -> None:
        """Open its group and start it."""
        self._group = self._stack.enter_context(open_group(self.side.name.replace("_", "-")))
        self.side.counted = getattr(self._group, "how", "")
        system = maker(outcome.workload.load, self._group, document)
        self.side.title = outcome.workload.titles.get(self.side.name, system.title)
        self.side.stand_ins = tuple(system.stand_ins)
        self._system = self._stack.enter_context(system)
        self.side.versions = dict(system.versions)
        self._last, self._last_at = self._group.usage(), time.monotonic()

    def play(self, index: int, updates: int | None) -> Played:
        """Play a round; one that runs alone is charged for what it did since the last one too."""
        before, began = self._group.usage(), time.monotonic()
        idle = before.since(self._last)
        if self._alone:
            before = self._last
        elif index >= 0:
            self.side.idle_cpu += idle.cpu
            self.side.idle_seconds += began - self._last_at
        with Sampler(self._group) as sampler:
            done = self._system.play(updates)
        self._last, self._last_at = self._group.usage(), time.monotonic()
        played = Played(
            index,
            done,
            self._last.since(before),
            sampler.peak,
            sampler.series(POINTS),
            began - self._run_start,
        )
        self.side.rounds.append(played)
        return played

    def ask_references(self) -> None:
        """Ask how its path does against what is published."""
        self.side.references = tuple(self._system.references())

    def leave(self) -> None:
        """End the system, then its group."""
        self._stack.close()
