"""A job's wishes for its rounds, and what an event asks of the outside.

Why: the words that the pure machines and the code around them share. It must
not decide anything.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from functions.coordinator.selection import SelectionRules
from functions.coordinator.state import Change


@dataclass(frozen=True, slots=True)
class RoundRules:
    """A job's wishes; times in seconds, ``deadline`` None for none.

    ``grace`` is how long a round waits for more clients when it has enough,
    ``stall`` how long a closed round waits for its next partial before it is
    tried again.
    """

    rounds: int
    selection: SelectionRules
    deadline: float | None = None
    update_type: str = "weights"
    grace: float = 2.0
    stall: float = 60.0


class Notice(enum.IntEnum):
    """How soon watchers have to hear of a change.

    SHORTLY is for a round that closed with every update that was planned: the
    aggregators know their goals and finish without being told; to tell everybody
    in that moment would only take the processors from them.
    """

    NONE = 0
    SOON = 1
    SHORTLY = 2
    NOW = 3


@dataclass(slots=True)
class Effects:
    """What the outside must do: write ``change`` and tell watchers."""

    change: Change = field(default_factory=Change)
    notice: Notice = Notice.NONE

    def then(self, later: Effects) -> None:
        """Add what a later event of the same moment asks."""
        self.change.update(later.change)
        self.notice = max(self.notice, later.notice)
