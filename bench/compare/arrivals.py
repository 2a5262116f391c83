"""When clients' updates arrive: all at once, as a Poisson process, along a day; or by a trace.

Why: the same seconds must be played to every side, so they are made once, from a seed.
All pure, all in seconds after a round's start, sorted. It must not send anything.

Along a day the number of available clients follows

    a(t) = (1 + s·cos(2π(t − peak)/day)) / (1 + s),   0 < a ≤ 1, greatest at ``peak``

with the swing s = 0.6, so that the busiest hour has (1 + s)/(1 − s) = 4 times the clients of the
quietest: Bonawitz et al., "Towards Federated Learning at Scale: System Design" (2019), section 9,
report a fourfold difference between low and high within 24 hours for a population of one region.
Days are compressed: nobody waits for 24 hours.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

SWING = 0.6
_GRID = 4096


def burst(n: int) -> tuple[float, ...]:
    """Return ``n`` arrivals, all at 0 s."""
    return (0.0,) * n


def poisson(n: int, rate: float, seed: int = 1) -> tuple[float, ...]:
    """Return the first ``n`` arrivals of a Poisson process of ``rate`` a second."""
    if rate <= 0:
        raise ValueError(f"a rate of {rate} a second brings nobody")
    gaps = np.random.default_rng(seed).exponential(1 / rate, n)
    return tuple(np.cumsum(gaps).tolist())


def availability(
    seconds: npt.ArrayLike, day: float, *, swing: float = SWING, peak: float = 0.5
) -> npt.NDArray[np.float64]:
    """Return the share of clients that are available, in (0, 1].

    ``day`` is a day's length in seconds, ``peak`` the busiest moment as a share of it.
    """
    if not 0 <= swing < 1:
        raise ValueError(f"the swing is {swing}, must be from 0 on and below 1")
    t = np.asarray(seconds, np.float64) / day
    return (1 + swing * np.cos(2 * math.pi * (t - peak))) / (1 + swing)


def diurnal(
    n: int, day: float, seed: int = 1, *, swing: float = SWING, peak: float = 0.5
) -> tuple[float, ...]:
    """Return ``n`` arrivals within one ``day`` (seconds), as dense as clients are available.

    An inhomogeneous Poisson process of which it is known that ``n`` come in the day: they are
    independent draws from a(t)/∫a, here by inverting its integral on a grid.
    """
    grid = np.linspace(0, day, _GRID)
    density = availability(grid, day, swing=swing, peak=peak)
    integral = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    drawn = np.random.default_rng(seed).random(n)
    return tuple(np.sort(np.interp(drawn, integral / integral[-1], grid)).tolist())


def sizes(
    rounds: int, most: int, *, steps: int = 4, swing: float = SWING, days: float = 1.0
) -> tuple[int, ...]:
    """Return how many clients are there in each of ``rounds`` rounds spread over ``days``.

    The busiest has ``most``, none has 0. Numbers are rounded to ``steps`` different ones: a
    service asks for so many clients by the hour, not for one more each minute.
    """
    at = (np.arange(rounds) + 0.5) * days / rounds
    least = (1 - swing) / (1 + swing)
    level = np.rint((availability(at, 1.0, swing=swing) - least) / (1 - least) * (steps - 1))
    share = least + level / (steps - 1) * (1 - least)
    return tuple(max(1, round(most * s)) for s in share.tolist())


def read_trace(path: Path) -> tuple[float, ...]:
    """Return the arrivals of a trace: a number of seconds a line; ``#`` begins a comment.

    The earliest becomes 0 s.

    Raises
    ------
    ValueError
        if there is none, or a line is no number; it says which.
    """
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{path}, line {number}: {text!r} is no number of seconds") from None
        if not math.isfinite(value):
            raise ValueError(f"{path}, line {number}: {text!r} is no moment")
        found.append(value)
    if not found:
        raise ValueError(f"{path} has no arrivals")
    first = min(found)
    return tuple(sorted(value - first for value in found))
