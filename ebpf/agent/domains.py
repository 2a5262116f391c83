"""A job's domain on this node: its pool, its plans, which of them are closing or over.

Why: pool and routes belong to a job, and must be found again after the agent was
restarted: the pool comes back with any function that held it and is known by its
inode, since the memory itself has no name.

It must not know functions, sockets or the data plane.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ebpf.agent.settle import Dispatcher, Item
from ebpf.agent.warming import Warming
from ebpf.agent.work import Ledger
from lifl.errors import ConfigError
from lifl.store import Pool, PoolGeometry, SlotKind
from lifl.topology import Plan

LOCK_SECONDS = 0.25
"""How long the agent waits for a pool's table: it has other pools to serve."""
REMEMBERED_ENDS = 64
READERS = 64
"""Lanes below this may pin objects: gateways and coordinators; aggregators have the rest."""


@dataclass(slots=True)
class Domain:
    """One job on this node. ``number`` is also the id of its group of entry functions."""

    number: int
    name: str
    uid: int
    geometry: PoolGeometry
    prefault: int
    dispatcher: Dispatcher
    pool: Pool | None = None
    inode: tuple[int, int] = (0, 0)
    plans: dict[int, Plan] = field(default_factory=dict)
    """By assignment; the highest assignment's is in the role rows."""
    closing: set[int] = field(default_factory=set)
    ended: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED_ENDS))
    coordinator_here: bool = False
    names: dict[int, str] = field(default_factory=dict)
    """Functions that are gone but may be the owners of objects."""
    hurry: bool = False
    """The members changed: send what lies sealed again at once."""
    rewire: bool = False
    """The pool was busy when role rows had to be written."""
    flushed: dict[tuple[int, int], float] = field(default_factory=dict)
    """When an (endpoint, assignment) was last told to flush."""
    busy_since: tuple[int, float] | None = None
    """The process that holds the pool's table, and since when."""
    idle_since: float | None = None
    warming: Warming = field(default_factory=Warming)
    ledger: Ledger = field(default_factory=Ledger)

    def create_pool(self) -> None:
        """Make the memory; nobody holds an earlier one."""
        self.own(Pool.create(self.name, self.geometry, prefault_slots=self.prefault))

    def own(self, pool: Pool) -> None:
        """Take over the memory, new or brought back."""
        info = os.fstat(pool.fd)
        pool.lock.timeout = LOCK_SECONDS
        self.pool, self.inode = pool, (info.st_dev, info.st_ino)

    def recognise(self, fd: int) -> bool:
        """Tell whether ``fd`` is this domain's memory."""
        info = os.fstat(fd)
        return (info.st_dev, info.st_ino) == self.inode

    @property
    def plan(self) -> Plan | None:
        """The plan in force: that of the latest assignment."""
        return self.plans[max(self.plans)] if self.plans else None

    def apply(self, plan: Plan) -> bool:
        """Take a plan; False if it is older than the one in force, or over."""
        current = self.plan
        if plan.assignment in self.ended:
            return False
        if current and (plan.assignment, plan.epoch) < (current.assignment, current.epoch):
            return False
        self.plans[plan.assignment] = plan
        return True

    def end(self, assignment: int) -> None:
        """Forget an assignment; what is left of it is waste."""
        self.plans.pop(assignment, None)
        self.closing.discard(assignment)
        if assignment not in self.ended:
            self.ended.append(assignment)
        self.flushed = {k: at for k, at in self.flushed.items() if k[1] != assignment}

    def objects(self) -> list[Item]:
        """Return the updates and partials in the pool."""
        if self.pool is None:
            return []
        items = [Item(ref, self.pool.entry(ref.slot)) for ref in self.pool.find()]
        return [
            i
            for i in items
            if i.entry.kind is not SlotKind.MODEL and i.entry.generation == i.ref.generation
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what the next agent must know."""
        return {
            "number": self.number,
            "name": self.name,
            "uid": self.uid,
            "geometry": asdict(self.geometry),
            "prefault": self.prefault,
            "inode": self.inode,
            "plans": [p.to_json() for p in self.plans.values()],
            "closing": sorted(self.closing),
            "ended": list(self.ended),
            "coordinator_here": self.coordinator_here,
            "names": self.names,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], dispatcher: Dispatcher) -> Self:
        """Read what :meth:`to_json` wrote; the pool is still to be brought."""
        plans = [Plan.from_json(p) for p in raw["plans"]]
        return cls(
            number=raw["number"],
            name=raw["name"],
            uid=raw["uid"],
            geometry=PoolGeometry(**raw["geometry"]),
            prefault=raw["prefault"],
            dispatcher=dispatcher,
            inode=(raw["inode"][0], raw["inode"][1]),
            plans={p.assignment: p for p in plans},
            closing=set(raw["closing"]),
            ended=deque(raw["ended"], maxlen=REMEMBERED_ENDS),
            coordinator_here=raw["coordinator_here"],
            names={int(k): v for k, v in raw["names"].items()},
        )


def check_geometry(geometry: PoolGeometry) -> PoolGeometry:
    """Return ``geometry`` if it has lanes for both readers and aggregators."""
    if geometry.lanes <= READERS:
        raise ConfigError(f"a pool needs more than {READERS} lanes, not {geometry.lanes}")
    return geometry
