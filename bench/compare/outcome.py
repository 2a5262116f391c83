"""What is kept of a run: rounds by side and workload, and how ``rounds.json`` has them.

Why: report, simulation and later runs read that file, so its fields are in one place, apart from
how rounds come about. It must not play anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.compare import shapes
from bench.compare.api import Reference, Round, Usage
from bench.compare.workloads import Workload


@dataclass(frozen=True, slots=True)
class Played:
    """One round as the runner saw it. ``index`` -1 is a warm-up.

    ``usage`` is of the whole ``play``; ``memory`` are (seconds, bytes) and ``peak`` the most of
    them. ``at`` is seconds since the run's start.
    """

    index: int
    round: Round
    usage: Usage
    peak: int
    memory: Sequence[tuple[float, int]]
    at: float


@dataclass(slots=True)
class Side:
    """What one side did in a workload."""

    name: str
    title: str = ""
    stand_ins: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    counted: str = ""
    rounds: list[Played] = field(default_factory=list)
    idle_cpu: float = 0.0
    idle_seconds: float = 0.0
    references: Sequence[Reference] = ()
    failed: str = ""
    not_run: str = ""

    def counting(self) -> list[Played]:
        """Return the rounds that are no warm-up."""
        return [p for p in self.rounds if p.index >= 0]


@dataclass(slots=True)
class Outcome:
    """A workload's sides, and how they were run."""

    workload: Workload
    together: bool = True
    sides: dict[str, Side] = field(default_factory=dict)
    seconds: float = 0.0
    restless: int = 0
    """Rounds that began although the machine was still busy."""

    def to_json(self) -> dict[str, Any]:
        """Return what stands in ``rounds.json``."""
        w = self.workload
        return {
            "name": w.name,
            "model": w.load.model,
            "title": shapes.title(w.load.model),
            "clients": w.load.clients,
            "sizes": list(w.load.sizes),
            "arrivals": list(w.load.arrivals),
            "arrive": w.arrive,
            "purpose": w.purpose,
            "rounds": w.rounds,
            "warm": w.warm,
            "together": self.together,
            "passes": w.passes,
            "few": dict(w.few),
            "cold": list(w.cold),
            "seconds": round(self.seconds, 1),
            "restless": self.restless,
            "sides": {name: _side(side) for name, side in self.sides.items()},
        }


def _side(side: Side) -> dict[str, Any]:
    rounds = [
        {
            "index": p.index,
            "wall": p.round.wall,
            "last_byte": p.round.last_byte,
            "updates": p.round.updates,
            "created": p.round.created,
            "nodes": p.round.nodes,
            "marks": dict(p.round.marks),
            "user": p.usage.user,
            "system": p.usage.system,
            "cpu": p.usage.cpu,
            "switches": p.usage.switches,
            "peak": p.peak,
            "memory": [[round(t, 4), n] for t, n in p.memory],
            "at": round(p.at, 2),
        }
        for p in side.rounds
    ]
    return {
        "title": side.title or side.name,
        "stand_ins": list(side.stand_ins),
        "versions": dict(side.versions),
        "counted": side.counted,
        "idle_cpu": side.idle_cpu,
        "idle_seconds": side.idle_seconds,
        "references": [asdict(r) | {"holds": r.holds} for r in side.references],
        "failed": side.failed,
        "not_run": side.not_run,
        "rounds": rounds,
    }
