"""Rounds with a fault in them: one job, a new round for each fault, the first without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .kit import Arrays, Job, Platform, wait_for

CLIENTS = 6


class Rounds:
    """One job's rounds, a new one for each test; the first has no fault."""

    def __init__(self, on: Platform, name: str, clients: int = CLIENTS, **options: Any) -> None:
        self.job = on.submit(name, clients=clients, **options)
        self.job.open_round()
        self.job.deliver_all(1)
        self.undisturbed = self.job.check(1)
        self._done = 1

    def begin(self) -> int:
        """Return the number of the next round, which is open and has all its aggregators.

        What earlier rounds made is on the disk: a death at a step is this round's.
        """
        number: int = self.job.open_round(self._done)["round"]
        wait_for(lambda: self.job.status()["kept"], "the version before to be on the disk")
        on, name = self.job.platform, self.job.name
        roles = self.job.plan()["roles"]
        for node in {r["node"] for r in roles}:
            here = {r["name"] for r in roles if r["node"] == node}
            wait_for(lambda n=int(node[-1]), h=here: h <= on.workers(name, n).keys(), "the roles")
        return number

    def end(self, number: int) -> Arrays:
        """Wait for the round's model, judge it, and wait until nothing else is in the pool."""
        model = self.job.check(number)
        self._done = number
        wait_for(lambda: self._empty(number + 1), "the round's objects to be gone")
        return model

    def _empty(self, following: int) -> bool:
        """Whether only the model is left in the pool once the next round is open."""
        if self.job.current()["round"] < following:
            return False
        on = self.job.platform
        for node in range(len(on.state["nodes"])):
            usage = on.usage(self.job.name, node)
            models = 1 if node == 0 else 0
            if (usage.sealed, usage.taken, usage.writing) != (models, 0, 0):
                return False
        return True


def same_bits(one: Arrays, other: Arrays) -> None:
    """Hold what is exact in float32 in any order against each other, bit for bit."""
    for name in ("mark", "whole"):
        np.testing.assert_array_equal(one[name].view(np.uint32), other[name].view(np.uint32))


def top_of(job: Job) -> str:
    return next(r["name"] for r in job.plan()["roles"] if r["parent"] is None)


def leaves_of(job: Job) -> list[str]:
    return [r["name"] for r in job.plan()["roles"] if r["level"] == "leaf"]


def gone(armed: Path) -> None:
    wait_for(lambda: not armed.exists(), f"a death at {armed.name}")
