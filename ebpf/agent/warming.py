"""Making a pool's pages ahead of their use, in small pieces between other duties.

Why: pages are charged to whoever touches them first, and a function is killed for pages beyond
its pod's limit; so where pods have limits the agent makes the pages that a plan will need. A
piece at a time, since making 45 MB takes 35 ms and the agent has others to serve. Of pages that a
function touches before the agent does, that function is charged.

It must not decide how many slots are needed; plans say.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from lifl.errors import PoolBusy
from lifl.store import Pool

PIECE_BYTES = 8 << 20
SPARE_SLOTS = 2

log = logging.getLogger("lifl.agent")


def slots_needed(expected: int, aggregators: int, slots: int) -> int:
    """Return how many slots a node's part of a plan uses: updates, outputs, the model, spare."""
    return min(slots, expected + 2 * aggregators + 2 + SPARE_SLOTS)


@dataclass(slots=True)
class Warming:
    """One pool's; ``goal`` is how many slots are to have pages."""

    goal: int = 0
    _slot: int | None = field(default=None)
    _done: int = field(default=0)

    def due(self, pool: Pool) -> bool:
        """Say whether there is more to do."""
        return pool.warm_slots() < self.goal

    def step(self, pool: Pool, budget: int) -> int:
        """Make one piece, of ``budget`` bytes at most; return its bytes, 0 if nothing is due.

        A pool that is busy or for which there is no memory is let be.
        """
        if budget <= 0 or not self.due(pool):
            return 0
        if self._slot is None or pool.is_warm(self._slot):
            self._slot, self._done = pool.cold_slot(), 0
        if self._slot is None:
            return 0
        size = min(PIECE_BYTES, budget, pool.geometry.slot_bytes - self._done)
        try:
            pool.make_pages(self._slot, self._done, size)
            self._done += size
            if self._done >= pool.geometry.slot_bytes:
                pool.note_warm(self._slot)
        except PoolBusy:
            return 0
        except OSError as e:
            log.warning("pages of a pool are not made ahead: %s", e)
            self.goal = 0
            return 0
        return size
