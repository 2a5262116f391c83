"""Plays sides of a cluster in turn, some rounds each, and keeps what was seen.

Why: all sides are up at once and take turns (A A A B B B, and again), so that a slow minute does
not fall on one of them alone; what one side cannot do costs the others nothing. CPU is read before
and after a *block* of rounds, when every kubelet has read its pods anew, for such a reading is too
coarse for one round. It must not know what a side is.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from bench.compare.api import Load, Round
from bench.compare.knative.usage import Meter, Spent, spent

Tell = Callable[[str], None]


class ClusterSide(Protocol):
    """An ``api.System`` on a cluster.

    ``block`` is after how many rounds CPU is read at the latest (0: after all of a turn).
    """

    name: str
    title: str
    stand_ins: Sequence[str]
    versions: Mapping[str, str]
    block: int

    def __enter__(self) -> Self:
        """Deploy it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take it off."""

    def play(self, updates: int | None = None) -> Round:
        """Play one round."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rounds in a row, and the CPU of ``interval`` seconds from before the first to after the last.

    ``cpu`` is None if a side failed within it.
    """

    rounds: Sequence[Round]
    cpu: Spent | None
    interval: float


@dataclass(slots=True)
class Side:
    """What one side did; rounds that were warm-ups are in no block."""

    title: str
    stand_ins: Sequence[str]
    versions: Mapping[str, str] = field(default_factory=dict)
    warm_ups: list[Round] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    failed: str = ""

    def rounds(self) -> list[Round]:
        """Return the rounds that count."""
        return [r for b in self.blocks for r in b.rounds]


@dataclass(slots=True)
class Seen:
    """A run: its load, each side, and what the cluster spends while nobody plays."""

    load: Load
    nbytes: int
    sides: dict[str, Side] = field(default_factory=dict)
    idle: Spent = field(default_factory=lambda: Spent({}, 0.0))
    idle_seconds: float = 0.0


class Player:
    """Plays sides on one load; ``tell`` hears how it goes."""

    def __init__(self, load: Load, nbytes: int, meter: Meter, tell: Tell) -> None:
        self.seen = Seen(load, nbytes)
        self._meter, self._tell = meter, tell

    def run(self, sides: Sequence[ClusterSide], rounds: int, warm: int, turns: int = 1) -> Seen:
        """Deploy all, let each play ``turns`` times ``rounds`` rounds, take them off.

        Before a turn come ``warm`` rounds that do not count. A side that fails is left out.
        """
        with contextlib.ExitStack() as stack:
            up: dict[str, ClusterSide] = {}
            for side in sides:
                self.seen.sides[side.name] = Side(side.title, side.stand_ins)
                self._tell(f"{side.name}: deploying")
                with self._kept(side, up):
                    stack.enter_context(side)
                    self.seen.sides[side.name].versions = dict(side.versions)
                    up[side.name] = side
            if up:
                before, since = self._meter.fresh(), time.monotonic()
                self.seen.idle = spent(before, self._meter.fresh())
                self.seen.idle_seconds = time.monotonic() - since
            for side in list(up.values()) * turns:
                if side.name in up:
                    with self._kept(side, up):
                        self._turn(side, rounds, warm)
        return self.seen

    def _turn(self, side: ClusterSide, rounds: int, warm: int) -> None:
        seen = self.seen.sides[side.name]
        for _ in range(warm):
            seen.warm_ups.append(self._round(side, "warm-up"))
        size = side.block or rounds
        for first in range(0, rounds, size):
            self._block(side, seen, min(size, rounds - first))

    def _block(self, side: ClusterSide, seen: Side, rounds: int) -> None:
        before, since = self._meter.fresh(), time.monotonic()
        done: list[Round] = []
        cpu = None
        try:
            for _ in range(rounds):
                done.append(self._round(side, f"round {len(seen.rounds()) + len(done) + 1}"))
            cpu = spent(before, self._meter.fresh())
        finally:
            seen.blocks.append(Block(done, cpu, time.monotonic() - since))
        self._tell(f"{side.name}: {cpu.whole:.1f} CPU s in {time.monotonic() - since:.0f} s")

    def _round(self, side: ClusterSide, which: str) -> Round:
        done = side.play()
        self._tell(f"{side.name} {which}: {done.wall:.3f} s, {done.created} pods made")
        return done

    @contextlib.contextmanager
    def _kept(self, side: ClusterSide, up: dict[str, ClusterSide]) -> Iterator[None]:
        """Note what a side raises, and go on without it."""
        try:
            yield
        except Exception as e:
            up.pop(side.name, None)
            self.seen.sides[side.name].failed = f"{type(e).__name__}: {e}"
            self._tell(f"{side.name} failed: {e}")


def write(out: Path, about: Mapping[str, Any], runs: Sequence[Seen], text: str) -> None:
    """Write ``rounds.json`` and ``table.md`` into ``out``, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    whole = {**about, "workloads": [asdict(seen) for seen in runs]}
    for name, content in (("rounds.json", json.dumps(whole, indent=1) + "\n"), ("table.md", text)):
        part = out / f"{name}.part"
        part.write_text(content)
        part.replace(out / name)
