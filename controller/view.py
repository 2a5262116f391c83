"""What the controller sees: jobs, nodes and aggregators as plain values.

Why: decisions are made from these alone; nothing else is remembered as truth.
It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lifl.topology import Plan

OVER = frozenset({"done", "stopped", "failed"})
COLLECTING = frozenset({"open", "closing", "committing"})


@dataclass(frozen=True, slots=True)
class JobView:
    """One job as the coordinator tells it.

    ``selected`` is None when every client may take part; ``known`` are then those
    seen so far. ``plan`` is the present assignment's, or None. ``accepted`` counts the
    round's updates, ``ratings`` how often a model's accuracy was told. ``fan_in`` is how many
    updates a leaf is for, None if the job leaves that to the controller.
    """

    job: str
    uid: int
    round: int
    assignment: int
    phase: str
    closing: bool
    geometry: Mapping[str, int] | None
    fan_in: int | None
    timing: str
    expected: int
    selected: tuple[str, ...] | None
    known: tuple[str, ...]
    home: str | None
    plan: Plan | None
    version: int = 0
    accepted: int = 0
    ratings: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Return the clients that may post, as far as they are known, sorted."""
        return tuple(sorted(self.known if self.selected is None else self.selected))

    @property
    def over(self) -> bool:
        """Say whether the job has ended."""
        return self.phase in OVER

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> JobView:
        """Read an entry of the coordinator's watch answer."""
        plan = Plan.from_json(raw["plan"]) if raw.get("plan") else None
        if plan is not None and plan.assignment != raw["assignment"]:
            plan = None
        selected = raw.get("selected")
        return cls(
            job=raw["job"],
            uid=int(raw["domain_uid"]),
            round=int(raw["round"]),
            assignment=int(raw["assignment"]),
            phase=raw["phase"],
            closing=bool(raw.get("closing")) or raw["phase"] == "closing",
            geometry=raw.get("geometry"),
            fan_in=None if raw.get("as_needed") else int(raw["fan_in"]),
            timing=raw["timing"],
            expected=int(raw["expected"]),
            selected=None if selected is None else tuple(selected),
            known=tuple(raw.get("known") or ()),
            home=(raw.get("model") or {}).get("node"),
            plan=plan,
            version=int(raw.get("version", 0)),
            accepted=len(raw.get("accepted") or ()),
            ratings=int(raw.get("ratings", 0)),
        )


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node whose gateway is alive.

    ``epoch`` names the life of its agent, "" while the agent does not answer;
    ``domains`` are the jobs that have a pool there, ``loads`` each job's smoothed number of
    updates in service and ``work`` how many aggregators that keeps busy. ``capacity`` is what it
    can take, in updates; None: as the policies say. ``room`` is the most aggregators it can run,
    of all jobs, None if nothing bounds them, and ``processors`` how many it has for aggregators,
    part of one if it shares it.
    """

    name: str
    epoch: str
    domains: frozenset[str] = frozenset()
    loads: Mapping[str, float] = field(default_factory=dict)
    work: Mapping[str, float] = field(default_factory=dict)
    capacity: float | None = None
    room: int | None = None
    processors: float = 1.0

    @property
    def load(self) -> float:
        """Return the smoothed number of updates in service, of all jobs."""
        return sum(self.loads.values())
