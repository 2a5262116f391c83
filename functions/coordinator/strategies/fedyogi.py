"""FedYogi (Reddi et al. 2021, Algorithm 2, https://arxiv.org/abs/2003.00295)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functions.coordinator.strategies.adaptive import Adaptive
from functions.coordinator.strategies.base import Floats


@dataclass(frozen=True, slots=True)
class FedYogi(Adaptive):
    """v ← v − (1 − β2)·Δ²·sign(v − Δ²)."""

    beta2: float = 0.99

    def second_moment(self, square: Floats, old: Floats, new: Floats, scratch: Floats) -> None:
        """Write the second moment of Yogi."""
        np.subtract(old, square, out=scratch)
        np.sign(scratch, out=scratch)
        np.multiply(scratch, square, out=scratch)
        np.multiply(scratch, 1.0 - self.beta2, out=scratch)
        np.subtract(old, scratch, out=new)
