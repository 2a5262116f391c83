"""Which clients an attempt asks, and how many updates it wants.

Why: choosing clients is a policy apart from telling them. It must not know
time, nodes or HTTP: the same arguments give the same choice, also after a
restart.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """How many clients a round wants.

    ``per_round`` updates close a round and ``minimum`` are enough at the
    deadline; ``over_provision`` 0.2 asks 20 % more clients than that.
    ``everyone`` lets any client take part.
    """

    per_round: int
    minimum: int
    over_provision: float = 0.0
    everyone: bool = False
    seed: int = 0

    @property
    def wanted(self) -> int:
        """Return how many clients to ask."""
        return ceil(round(self.per_round * (1 + self.over_provision), 6))


class Selection(NamedTuple):
    """``clients`` is None when any may take part; ``goal`` updates close the round."""

    clients: tuple[str, ...] | None
    goal: int


def enough(rules: SelectionRules, known: int) -> bool:
    """Whether a round could start with ``known`` clients."""
    return rules.everyone or known >= rules.minimum


def complete(rules: SelectionRules, known: int) -> bool:
    """Whether waiting for more clients would change nothing."""
    return rules.everyone or known >= rules.wanted


def choose(
    rules: SelectionRules,
    known: Sequence[str],
    *,
    round_number: int,
    attempt: int,
    silent: Collection[str] = (),
) -> Selection:
    """Choose the clients of one attempt.

    Random without replacement, seeded by the job's seed, the round and the
    attempt. Clients in ``silent`` did not answer the attempt before: they are
    asked only where the others are too few.
    """
    if rules.everyone:
        return Selection(None, rules.per_round)
    order = random.Random(f"{rules.seed}/{round_number}/{attempt}")
    quiet = set(silent)
    first = sorted(c for c in known if c not in quiet)
    last = sorted(c for c in known if c in quiet)
    order.shuffle(first)
    order.shuffle(last)
    chosen = tuple((first + last)[: rules.wanted])
    return Selection(chosen, min(rules.per_round, len(chosen)))
