"""Least squares with coefficients from 0 on: what several small runs say of a few costs.

Why: processor time of a run is a sum of costs times known counts; none can be negative. It must
not know what is measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def costs(counts: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Return x ≥ 0 with least Σ ((counts·x − seconds) / seconds)², relative to what was measured.

    Every subset of columns is tried, as there are few: the best that gives no negative is the
    solution.

    Raises
    ------
    ValueError
        if there are fewer runs than costs, or a run took no time.
    """
    a, y = np.asarray(counts, np.float64), np.asarray(seconds, np.float64)
    if len(a) < a.shape[1]:
        raise ValueError(f"{len(a)} runs do not tell {a.shape[1]} costs")
    if np.any(y <= 0):
        raise ValueError("a run took no time")
    a = a / y[:, None]
    scale = np.where(a.any(axis=0), np.abs(a).max(axis=0), 1.0)
    a = a / scale
    best, least = np.zeros(a.shape[1]), float(len(y))
    for number in range(1, a.shape[1] + 1):
        for chosen in itertools.combinations(range(a.shape[1]), number):
            part = a[:, chosen]
            x = np.linalg.lstsq(part, np.ones(len(y)), rcond=None)[0]
            if np.any(x < 0):
                continue
            error = float(np.sum((part @ x - 1) ** 2))
            if error < least - 1e-12:
                best, least = np.zeros(a.shape[1]), error
                best[list(chosen)] = x
    return [float(v) for v in best / scale]
