"""Numbers, workloads and noise in words, as tables, captions and the page's head all say them.

Why: a caption must be true of what was run, so it is made of what the run's file says, once. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.compare.summary import Run, counting, wall


def spread(values: Sequence[float], unit: str = "", digits: int = 3) -> str:
    """Return ``median [least .. most]``."""
    if not values:
        return "–"
    shown = [number(v, digits) for v in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]}{unit} [{shown[1]} .. {shown[2]}]"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, without an exponent."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text


def judged(value: float, bar: str | None, passed: bool | None) -> str:
    """Return a figure with two decimals, more where it would look like the bar that it missed."""
    digits = 2
    if bar and passed is False:
        limit = float(bar.rpartition(" ")[2])
        while digits < 6 and float(f"{value:.{digits}f}") == limit:
            digits += 1
    return f"{value:.{digits}f}"


def said(w: Mapping[str, Any]) -> str:
    """Return a workload in a sentence."""
    how = "round by round in turn" if w["together"] else "one side after the other"
    passes = f", {w['passes']} times over" if w["passes"] > 1 else ""
    few = "".join(f", {_title(w, n)} {many}" for n, many in (w.get("few") or {}).items())
    rounds = f"{w['rounds']} rounds a side{few}, {how}{passes}, {_warmed(w)}"
    return (
        f"{w['purpose'][0].upper()}{w['purpose'][1:]}: {w['clients']} clients, {w['title']}; "
        f"updates arrive {w['arrive']}; {rounds}."
    )


def _warmed(w: Mapping[str, Any]) -> str:
    if not w["warm"]:
        return "none to warm up"
    cold = [_title(w, n) for n in w.get("cold") or () if n in w["sides"]]
    but = f" ({', '.join(cold)}: none)" if cold else ""
    return f"after {w['warm']} to warm up{but}"


def _title(w: Mapping[str, Any], name: str) -> str:
    return str(w["sides"].get(name, {}).get("title", name))


def true_means(run: Run) -> str:
    """Return which sides' means of true updates were compared with the training's, for people."""
    found = [
        f"{side}'s ({task}, off by {off:.1g} of the greatest weight)"
        for task, sides in (run.get("true_means") or {}).items()
        for side, off in sides.items()
    ]
    if not found:
        return ""
    return (
        f" Means of different, true updates were compared with the training's: {', '.join(found)}."
    )


def noise(run: Run) -> str:
    """Return how much rounds of one side differ, for people."""
    found = [
        (max(values) - min(values)) / statistics.median(values)
        for w in run["workloads"]
        if not w["sizes"]
        for s in w["sides"].values()
        if len(values := _values(s, wall)) > 1
    ]
    load = run["machine"]["load"]
    busy = f"; a load of {load} by others when it began" if load >= 0.25 else ""
    if not found:
        return f"one round a side says nothing of its spread{busy}"
    return (
        f"rounds of one side differ by {100 * statistics.median(found):.0f} % from the quickest to "
        f"the slowest (median over sides and workloads){busy}"
    )


def summed_up(shown: Sequence[Mapping[str, Any]]) -> str:
    """Return several workloads in a sentence; each one's table says the rest."""
    rounds = sorted({w["rounds"] * w["passes"] for w in shown})
    many = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else str(rounds[0])
    together = {bool(w["together"]) for w in shown}
    how = {True: "sides in turn", False: "one side after the other"}
    played = ", or ".join(how[t] for t in sorted(together, reverse=True))
    few = ", of slow sides fewer" if any(w.get("few") for w in shown) else ""
    return (
        f"{len(shown)} workloads, {many} rounds a side{few}, {played}; their tables below say how "
        "each was run."
    )


def middles(run: Run, middle: str) -> str:
    """Return what bars and whiskers are, and the noise, for people."""
    return f"Bars are {middle}, whiskers least to most; {noise(run)}."


def _values(side: Mapping[str, Any], of: Callable[[Mapping[str, Any]], float]) -> list[float]:
    return [of(r) for r in counting(side)]
