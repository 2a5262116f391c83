"""FedAdam (Reddi et al. 2021, Algorithm 2, https://arxiv.org/abs/2003.00295)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functions.coordinator.strategies.adaptive import Adaptive
from functions.coordinator.strategies.base import Floats


@dataclass(frozen=True, slots=True)
class FedAdam(Adaptive):
    """v ← β2·v + (1 − β2)·Δ²."""

    beta2: float = 0.99

    def second_moment(self, square: Floats, old: Floats, new: Floats, scratch: Floats) -> None:
        """Write the second moment of Adam."""
        np.multiply(old, self.beta2, out=new)
        np.multiply(square, 1.0 - self.beta2, out=scratch)
        np.add(new, scratch, out=new)
