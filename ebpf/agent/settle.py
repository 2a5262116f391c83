"""What has to be sent again, and who has to be flushed: decisions from the slot table.

Why: a descriptor is a hint that may be lost with a dead receiver's queue, and a
goal is a hint that may never be reached; the table says what is really there.

Pure: entries and time come in, endpoints and objects go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ebpf.agent.plans import View
from lifl.store import SlotEntry, SlotKind, SlotRef, SlotState

MEAN = 2
"""``SlotEntry.layout`` of a partial that holds a mean."""
LONGEST_PAUSE = 2.0


class Item(NamedTuple):
    """One object in the pool."""

    ref: SlotRef
    entry: SlotEntry


class Send(NamedTuple):
    """Send an object's descriptor to an endpoint."""

    endpoint: int
    item: Item


@dataclass(slots=True)
class _Try:
    at: float
    pause: float


@dataclass(slots=True)
class Dispatcher:
    """Which sealed objects are due to be sent again; one per domain.

    An object waits ``sweep_age`` seconds after its seal, then twice as long after
    each try, at most LONGEST_PAUSE: it may just lie in a busy aggregator's queue.
    """

    sweep_age: float
    _tries: dict[SlotRef, _Try] = field(default_factory=dict)
    _turn: int = 0

    def due(
        self,
        view: View,
        items: Sequence[Item],
        names: dict[int, str],
        now: float,
        *,
        hurry: bool,
    ) -> list[Send]:
        """Return what to send now.

        ``names`` are those of functions that are gone; ``hurry`` forgets earlier
        tries, after the members changed; ``now`` is CLOCK_MONOTONIC in seconds.
        """
        sends = []
        for item in items:
            if item.entry.state is not SlotState.SEALED:
                continue
            last = None if hurry else self._tries.get(item.ref)
            due = last.at + last.pause if last else item.entry.sealed_ns / 1e9 + self.sweep_age
            if now >= due and (send := self.send(view, item, names)):
                pause = min(last.pause * 2, LONGEST_PAUSE) if last else self.sweep_age
                self._tries[item.ref] = _Try(now, pause)
                sends.append(send)
        return sends

    def send(self, view: View, item: Item, names: dict[int, str]) -> Send | None:
        """Return where one object goes, or None while nobody is there to take it."""
        target = self._target(view, item.entry, names)
        return None if target is None else Send(target, item)

    def _target(self, view: View, entry: SlotEntry, names: dict[int, str]) -> int | None:
        if entry.kind is SlotKind.PARTIAL:
            mean = entry.layout == MEAN
            return view.partial_target(entry.owner, names.get(entry.owner), mean=mean)
        if not view.entry:
            return None
        self._turn += 1
        return view.entry[self._turn % len(view.entry)]

    def forget(self, present: Iterable[SlotRef]) -> None:
        """Drop what is known of objects that are no longer in the table."""
        keep = set(present)
        self._tries = {ref: t for ref, t in self._tries.items() if ref in keep}


def holders(items: Iterable[Item]) -> dict[int, int]:
    """Return the aggregators that hold something, and how many inputs each has taken."""
    held: dict[int, int] = {}
    for _, entry in items:
        if entry.state is SlotState.TAKEN:
            held[entry.holder] = held.get(entry.holder, 0) + 1
        elif entry.state is SlotState.WRITING and entry.kind is SlotKind.PARTIAL:
            held.setdefault(entry.owner, 0)
    return held


def quiescent(view: View, items: Sequence[Item], names: dict[int, str]) -> list[int]:
    """Return the aggregators to flush in a closing assignment.

    Those that hold something and into which nothing of this node will flow any
    more: no sealed object is on its way to them, and no aggregator below them
    holds anything or awaits anything. Of children on other nodes nothing is
    known; flushing too early only makes one partial more.
    """
    held = holders(items)
    awaited: set[int] = set()
    for _, entry in items:
        if entry.state is not SlotState.SEALED:
            continue
        if entry.kind is SlotKind.UPDATE:
            awaited.update(view.entry)
        else:
            mean = entry.layout == MEAN
            target = view.partial_target(entry.owner, names.get(entry.owner), mean=mean)
            awaited.update([] if target is None else [target])
    busy = awaited | held.keys()
    return [
        e
        for e in view.aggregators
        if e in held and e not in awaited and busy.isdisjoint(view.descendants(e))
    ]


def under_pressure(
    view: View, items: Sequence[Item], free: int, kept: int, slots: int
) -> list[int]:
    """Return the aggregators to flush when ingest has (almost) no slot left.

    The fullest first, and as many as give back half of ingest's slots. Not one
    whose output leaves for the coordinator, where nobody would add it to
    anything: that one compacts what it holds by itself.
    """
    if free > kept + 1:
        return []
    held = holders(items)
    below = [e for e in view.aggregators if (role := view.role_of(e)) and role.parent]
    chosen, missing = [], (slots - kept) // 2
    for endpoint in sorted(below, key=lambda e: -held.get(e, 0)):
        if missing <= 0 or not held.get(endpoint):
            break
        chosen.append(endpoint)
        missing -= held[endpoint]
    return chosen
