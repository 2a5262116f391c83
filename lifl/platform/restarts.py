"""How long to wait before a process that died is started again.

Why: at once after one accident, ever longer when it keeps dying. Pure: times
are handed in, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY = 0.1
LONGEST_DELAY = 10.0
HEALTHY_SECONDS = 10.0
"""A process that lived this long had an accident; one that did not is failing."""
LOOP_DEATHS = 5
"""Deaths in a row, each within HEALTHY_SECONDS of the start, that make a crash loop."""


@dataclass(slots=True)
class Restarts:
    """One process's record: how often it died, how often in a row it died young."""

    deaths: int = 0
    in_a_row: int = 0

    def died(self, lived: float) -> float:
        """Note a death after ``lived`` seconds and return the delay before the next start."""
        self.deaths += 1
        self.in_a_row = 1 if lived >= HEALTHY_SECONDS else self.in_a_row + 1
        return float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** (self.in_a_row - 1)))

    @property
    def crash_loop(self) -> bool:
        """Say whether it keeps dying soon after its start."""
        return self.in_a_row >= LOOP_DEATHS
