"""Plays sides of a cluster in turn and keeps what was seen.

Why: all sides are up at once and play round by round (A B A B …), so that a slow minute does not
fall on one of them alone; what one side cannot do costs the others nothing. CPU is read before and
after each round, when every kubelet has read its pods anew. It must not know what a side is.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from bench.compare.api import Load, Round
from bench.compare.knative.usage import Meter, Sample, Spent, spent

Tell = Callable[[str], None]


class ClusterSide(Protocol):
    """An ``api.System`` on a cluster: ``pods`` are its aggregators' now."""

    name: str
    title: str
    stand_ins: Sequence[str]
    versions: Mapping[str, str]

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

    def pods(self) -> list[dict[str, Any]]:
        """Return its aggregators' pods."""


@dataclass(frozen=True, slots=True)
class Played:
    """One round: ``index`` -1 is a warm-up; CPU over ``interval`` seconds around it."""

    index: int
    round: Round
    cpu: Spent
    interval: float


@dataclass(slots=True)
class Side:
    """What one side did."""

    title: str
    stand_ins: Sequence[str]
    versions: Mapping[str, str] = field(default_factory=dict)
    rounds: list[Played] = field(default_factory=list)
    failed: str = ""


@dataclass(slots=True)
class Seen:
    """A run: its load, each side, and what the cluster spends while nobody plays."""

    load: Load
    nbytes: int
    sides: dict[str, Side] = field(default_factory=dict)
    idle: Spent = field(default_factory=lambda: Spent({}, 0.0))
    idle_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what stands in ``rounds.json``."""
        found = asdict(self)
        for side in found["sides"].values():
            side["rounds"] = [each | each.pop("round") for each in side["rounds"]]
        return found


class Player:
    """Plays ``sides`` on one load; ``tell`` hears how it goes."""

    def __init__(self, load: Load, nbytes: int, meter: Meter, tell: Tell) -> None:
        self.seen = Seen(load, nbytes)
        self._meter, self._tell = meter, tell

    def run(self, sides: Sequence[ClusterSide], rounds: int, warm: int) -> Seen:
        """Deploy all, play them in turn, take them off; a side that fails is left out."""
        with contextlib.ExitStack() as stack:
            up: dict[str, ClusterSide] = {}
            for side in sides:
                self.seen.sides[side.name] = Side(side.title, side.stand_ins)
                self._tell(f"{side.name}: deploying")
                with self._kept(side, up):
                    stack.enter_context(side)
                    self.seen.sides[side.name].versions = dict(side.versions)
                    up[side.name] = side
            before, since = self._idle() if up else ({}, 0.0)
            for index in [-1] * warm + list(range(rounds)):
                for side in list(up.values()):
                    with self._kept(side, up):
                        before, since = self._play(side, index, before, since)
        return self.seen

    def _idle(self) -> tuple[Sample, float]:
        before, since = self._meter.fresh(), time.monotonic()
        after, now = self._meter.fresh(), time.monotonic()
        self.seen.idle, self.seen.idle_seconds = spent(before, after), now - since
        return after, now

    def _play(
        self, side: ClusterSide, index: int, before: Sample, since: float
    ) -> tuple[Sample, float]:
        done = side.play()
        pods = {p["metadata"]["name"] for p in side.pods() if _running(p)}
        after, now = self._meter.fresh(pods), time.monotonic()
        used = spent(before, after)
        self.seen.sides[side.name].rounds.append(Played(index, done, used, now - since))
        self._tell(
            f"{side.name} {'warm-up' if index < 0 else f'round {index}'}: {done.wall:.3f} s, "
            f"{done.created} pods made, {used.whole:.2f} CPU s in {now - since:.0f} s"
        )
        return after, now

    @contextlib.contextmanager
    def _kept(self, side: ClusterSide, up: dict[str, ClusterSide]) -> Any:
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
    whole = {**about, "workloads": [seen.to_json() for seen in runs]}
    for name, content in (("rounds.json", json.dumps(whole, indent=1) + "\n"), ("table.md", text)):
        part = out / f"{name}.part"
        part.write_text(content)
        part.replace(out / name)


def _running(pod: Mapping[str, Any]) -> bool:
    there = pod["status"].get("phase") == "Running"
    return there and "deletionTimestamp" not in pod["metadata"]
