"""FedAvgM: FedAvg with momentum on the server.

Hsu, Qi and Brown 2019, https://arxiv.org/abs/1909.06335: v ← β·v + Δw and
w ← w − v, where their Δw is the model less the mean, here −Δ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from functions.coordinator.strategies.base import Floats


@dataclass(frozen=True, slots=True)
class FedAvgM:
    """v ← momentum·v + Δ; x ← x + lr·v."""

    lr: float = 1.0
    momentum: float = 0.9

    @property
    def vectors(self) -> tuple[str, ...]:
        """Return the velocity's name."""
        return ("velocity",)

    @property
    def plain_mean(self) -> bool:
        """Return False: the velocity always takes part."""
        return False

    def initial(self, vector: str) -> float:
        """Return 0: no velocity yet."""
        return 0.0

    def step(
        self,
        model: Floats,
        change: Floats,
        old: Mapping[str, Floats],
        new: Mapping[str, Floats],
        out: Floats,
    ) -> None:
        """Advance one block."""
        velocity = new["velocity"]
        np.multiply(old["velocity"], self.momentum, out=velocity)
        np.add(velocity, change, out=velocity)
        np.multiply(velocity, self.lr, out=out)
        np.add(out, model, out=out)
