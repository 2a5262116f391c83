"""How much is measured for the simulation's costs, and in which group: one that counts nothing.

Why: LIFL's costs and the other sides' are measured apart, but as often, at the same sizes, and by
processor time of processes, so that no control group is asked.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from bench.compare.api import Usage
from bench.sizes import BYTES

SIZES = (BYTES["45mb"] // 10, BYTES["45mb"])


class Effort(NamedTuple):
    """How often things are done: counted rounds, rounds to warm up, starts.

    Without ``nodes`` an object to another node is taken to cost what an update does.
    """

    rounds: int = 7
    warm: int = 2
    starts: int = 4
    nodes: bool = True


WHOLE, QUICK = Effort(), Effort(rounds=3, warm=1, starts=2, nodes=False)
"""A minute's measuring, and half of one's."""


class Nobody:
    """A group that counts nothing."""

    def adopt(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()

    def usage(self) -> Usage:
        """Return nothing."""
        return Usage(0.0, 0.0)

    def memory(self) -> int:
        """Return nothing."""
        return 0
