"""How much work a node has, and how much it can still take.

Why: placement needs one number a node. Load is ``Q = k·E`` (Little's law: the
mean number of updates in service, arrival rate ``k`` per second times mean
seconds ``E`` to aggregate one); residual capacity is ``RC = MC − Q`` with the
node's measured maximum ``MC`` in the same unit. It must not do I/O or know time.
"""

from __future__ import annotations

ALPHA = 0.7


def load(arrivals_per_second: float, seconds_per_update: float) -> float:
    """Return ``Q = k·E``, in updates."""
    if arrivals_per_second < 0 or seconds_per_update < 0:
        raise ValueError("a rate and a duration are not negative")
    return arrivals_per_second * seconds_per_update


def smooth(previous: float | None, sample: float, alpha: float = ALPHA) -> float:
    """Return the exponentially weighted moving average ``α·previous + (1−α)·sample``.

    The first sample (``previous`` is None) is taken as it is.
    """
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"alpha is {alpha}; use 0 <= alpha < 1")
    return sample if previous is None else alpha * previous + (1.0 - alpha) * sample


def residual(maximum: float, smoothed_load: float) -> float:
    """Return ``RC = MC − Q``, in updates, never below 0."""
    return max(0.0, maximum - smoothed_load)
