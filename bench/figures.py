"""A figure: its samples, its bar, and the verdict.

Why: every figure is a median of at least seven with its spread, and a ratio's
two sides come from the same run, pair by pair. It must not measure anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

MIN_SAMPLES = 7


@dataclass(frozen=True, slots=True)
class Bar:
    """A stated limit: the figure's median must be at least, or at most, ``limit``."""

    limit: float
    at_least: bool

    def holds(self, value: float) -> bool:
        """Return whether ``value`` meets the bar."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; ``notes`` are what a reader needs beside it."""

    key: str
    unit: str
    samples: Sequence[float]
    bar: Bar | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.samples) < MIN_SAMPLES:
            raise ValueError(f"{self.key}: {len(self.samples)} samples, need {MIN_SAMPLES}")

    @property
    def median(self) -> float:
        """Return the median of the samples."""
        return statistics.median(self.samples)

    @property
    def passed(self) -> bool | None:
        """Return whether the bar holds; None without a bar."""
        return None if self.bar is None else self.bar.holds(self.median)

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands under this figure's key in ``results/bench.json``."""
        return {
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
            "n": len(self.samples),
            "unit": self.unit,
            "bar": None if self.bar is None else str(self.bar),
            "passed": self.passed,
            **self.notes,
        }


def at_least(limit: float) -> Bar:
    """Return a bar that the median must reach."""
    return Bar(limit, at_least=True)


def at_most(limit: float) -> Bar:
    """Return a bar that the median must not pass."""
    return Bar(limit, at_least=False)


def interleave(
    first: Callable[[], float], second: Callable[[], float], *, n: int, warm: int = 2
) -> tuple[list[float], list[float]]:
    """Call both in turn, A B A B …, and return the samples of each, warm-ups left out."""
    a: list[float] = []
    b: list[float] = []
    for i in range(n + warm):
        x, y = first(), second()
        if i >= warm:
            a.append(x)
            b.append(y)
    return a, b


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Return ``over / under``, pair by pair."""
    return [a / b for a, b in zip(over, under, strict=True)]
