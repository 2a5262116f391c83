"""FedAvg: the model moves to the clients' weighted mean.

McMahan et al. 2017, https://arxiv.org/abs/1602.05629; the server learning rate
as in Reddi et al. 2021, https://arxiv.org/abs/2003.00295. It must not keep state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from functions.coordinator.strategies.base import Floats


@dataclass(frozen=True, slots=True)
class FedAvg:
    """x ← x + lr·Δ."""

    lr: float = 1.0

    @property
    def vectors(self) -> tuple[str, ...]:
        """Return no names: FedAvg has no state."""
        return ()

    @property
    def plain_mean(self) -> bool:
        """Whether the mean is the new model."""
        return self.lr == 1.0

    def initial(self, vector: str) -> float:
        """FedAvg has no state; raises KeyError."""
        raise KeyError(vector)

    def step(
        self,
        model: Floats,
        change: Floats,
        old: Mapping[str, Floats],
        new: Mapping[str, Floats],
        out: Floats,
    ) -> None:
        """Advance one block."""
        np.multiply(change, self.lr, out=out)
        np.add(out, model, out=out)
