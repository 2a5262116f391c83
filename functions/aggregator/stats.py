"""What an aggregator has done so far, in plain numbers.

Why: the data-plane thread counts, others read: HTTP threads for Prometheus, the agent for the
node's load. It must not know who reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lifl.store import SlotEntry, SlotKind


@dataclass(slots=True)
class Stats:
    """What the process has done so far."""

    objects: int = 0
    bytes: int = 0
    seconds: float = 0.0
    partials: int = 0
    fenced: int = 0
    refused: int = 0
    no_room: int = 0
    not_delivered: int = 0
    updates: int = 0
    """Of the objects, those that are client updates."""
    waited_ns: int = 0
    """How long those took altogether, from their seal until they were in the sum."""
    busy_ns: int = 0
    """How long of that they were being added."""

    def count(self, entries: Sequence[SlotEntry], started: int, ended: int) -> int:
        """Count objects that were added together from ``started`` to ``ended``, monotonic ns.

        Returns how many of them were updates; each took its share of the time.
        """
        self.seconds += (ended - started) / 1e9
        self.objects += len(entries)
        self.bytes += sum(entry.doc_bytes for entry in entries)
        updates = [entry for entry in entries if entry.kind is SlotKind.UPDATE]
        self.updates += len(updates)
        self.waited_ns += sum(max(0, ended - entry.sealed_ns) for entry in updates)
        self.busy_ns += (ended - started) * len(updates) // len(entries)
        return len(updates)
