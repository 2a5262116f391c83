"""Whether this process has been told to end and only serves on for a while.

Why: the worker that is told and the routes that must say "not ready" know nothing of
each other. It must not do anything itself.
"""

from __future__ import annotations

from dataclasses import dataclass


def seconds(raw: str) -> float:
    """Convert a time that may be zero; raises ValueError."""
    value = float(raw)
    if not 0 <= value <= 3600:
        raise ValueError("use seconds, 0 to 3600")
    return value


@dataclass(slots=True)
class Drain:
    """Set by a signal's handler, hence a plain attribute and no lock."""

    seconds: float = 0.0
    begun: bool = False
