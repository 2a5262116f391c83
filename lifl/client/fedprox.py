"""FedProx: keep a client's weights near the global model while it trains.

Why: on non-IID data local training drifts; FedProx adds the proximal term
``μ/2 · ‖w − w_global‖²`` to the local loss (Li et al., "Federated Optimization
in Heterogeneous Networks", MLSys 2020, equation 2). The server's mean stays
FedAvg's. Here for numpy; for torch see :class:`lifl.client.torch.FedProx`. It
must not change what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]


def proximal_loss(weights: Arrays, global_weights: Arrays, mu: float) -> float:
    """Return ``μ/2 · Σ (w − w_global)²`` over all float tensors of ``weights``, in float64."""
    total = 0.0
    for name, w in _floats(weights).items():
        difference = np.subtract(w, global_weights[name], dtype=np.float64)
        total += float(np.vdot(difference, difference))
    return 0.5 * mu * total


def proximal_gradient(weights: Arrays, global_weights: Arrays, mu: float) -> dict[str, Array]:
    """Return the term's gradient ``μ · (w − w_global)``, to be added to the loss's own.

    Same names, shapes and dtypes as the float tensors of ``weights``.
    """
    return {
        name: (w - global_weights[name]) * w.dtype.type(mu) for name, w in _floats(weights).items()
    }


def _floats(arrays: Arrays) -> dict[str, Array]:
    return {n: a for n, a in arrays.items() if np.issubdtype(a.dtype, np.floating)}
