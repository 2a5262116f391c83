"""FedAdagrad (Reddi et al. 2021, Algorithm 2, https://arxiv.org/abs/2003.00295)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functions.coordinator.strategies.adaptive import Adaptive
from functions.coordinator.strategies.base import Floats


@dataclass(frozen=True, slots=True)
class FedAdagrad(Adaptive):
    """v ← v + Δ²; without momentum by default, as in the paper's experiments."""

    beta1: float = 0.0

    def second_moment(self, square: Floats, old: Floats, new: Floats, scratch: Floats) -> None:
        """Write the second moment of Adagrad."""
        np.add(old, square, out=new)
