"""When aggregators add, and when an idle one is stopped.

Why: eager hides the sums behind the uploads, lazy is there to compare with;
warm aggregators are worth their memory for a while only (scale to zero).
It must not do I/O or read a clock: times are handed in, in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from lifl.topology import Timing


def timing(wanted: str, *, eager: bool = True) -> Timing:
    """Return the job's timing; ``eager`` off makes every job lazy (the ablation's base)."""
    return Timing(wanted) if eager else Timing.LAZY


def lasting(since: Mapping[str, float], now: float, seconds: float) -> tuple[str, ...]:
    """Return the names of what has lasted for ``seconds``, sorted."""
    return tuple(sorted(name for name, began in since.items() if now - began >= seconds))
