"""How many updates of a job came to this node, and how long they took until they were summed.

Why: load is ``Q = k·E``; *k* is counted by the kernel at the gateway's socket, *E* by the
aggregators in their rows of the pool, both for as long as one function lives. Here they
become sums that only grow, whoever comes and goes. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

LONGEST_NS = 3_600_000_000_000
"""A row is written by the job's function: an hour an update is the most that is believed."""


class Reading(NamedTuple):
    """What one function has counted so far.

    Updates sent on, updates summed, ns these took since they came, ns they were being added.
    """

    arrived: int = 0
    added: int = 0
    waited_ns: int = 0
    busy_ns: int = 0


@dataclass(slots=True)
class Ledger:
    """Sums over all functions that a job ever had here."""

    total: Reading = field(default_factory=Reading)
    _seen: dict[int, Reading] = field(default_factory=dict)

    def note(self, readings: Mapping[int, Reading]) -> Reading:
        """Add what was done since the last call; readings are by endpoint number."""
        arrived, added, waited, busy = self.total
        for endpoint, now in readings.items():
            last = self._seen.get(endpoint, Reading())
            if now.arrived < last.arrived or now.added < last.added:
                last = Reading()  # it counts anew
            arrived += now.arrived - last.arrived
            more = now.added - last.added
            added += more
            waited += min(max(0, now.waited_ns - last.waited_ns), more * LONGEST_NS)
            busy += min(max(0, now.busy_ns - last.busy_ns), more * LONGEST_NS)
        self.total = Reading(arrived, added, waited, busy)
        self._seen = dict(readings)
        return self.total
