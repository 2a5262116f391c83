"""What the adaptive server optimizers of FedOpt share.

Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2,
https://arxiv.org/abs/2003.00295::

    m ← β1·m + (1 − β1)·Δ
    v ← (FedAdagrad, FedYogi and FedAdam differ here)
    x ← x + η·m / (√v + τ)

with m = 0 and v = τ² before the first version, and no bias correction. The
three differ in :meth:`Adaptive.second_moment` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from functions.coordinator.strategies.base import Floats


@dataclass(frozen=True, slots=True)
class Adaptive(ABC):
    """``lr`` is η, ``tau`` the degree of adaptivity τ."""

    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3

    @property
    def vectors(self) -> tuple[str, ...]:
        """Return the names of the moments m and v."""
        return ("m", "v")

    @property
    def plain_mean(self) -> bool:
        """Return False: the moments always take part."""
        return False

    def initial(self, vector: str) -> float:
        """Return 0 for m and τ² for v."""
        return {"m": 0.0, "v": self.tau**2}[vector]

    @abstractmethod
    def second_moment(self, square: Floats, old: Floats, new: Floats, scratch: Floats) -> None:
        """Write v into ``new`` from ``old`` and Δ² (``square``, which may be overwritten)."""

    def step(
        self,
        model: Floats,
        change: Floats,
        old: Mapping[str, Floats],
        new: Mapping[str, Floats],
        out: Floats,
    ) -> None:
        """Advance one block; ``out`` serves as scratch until the end."""
        m, v = new["m"], new["v"]
        np.multiply(old["m"], self.beta1, out=m)
        np.multiply(change, 1.0 - self.beta1, out=out)
        np.add(m, out, out=m)
        np.multiply(change, change, out=change)
        self.second_moment(change, old["v"], v, out)
        np.sqrt(v, out=change)
        np.add(change, self.tau, out=change)
        np.divide(m, change, out=out)
        np.multiply(out, self.lr, out=out)
        np.add(out, model, out=out)
