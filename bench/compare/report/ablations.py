"""Plots of what single mechanisms buy: policies of the control plane, parts of the data plane.

Why: a ratio of whole sides does not say where it comes from. It must not measure.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.compare.report.drawing import COLOURS, INK, STEPS, Plot, bar, svg
from bench.compare.report.wording import middles, said, summed_up
from bench.compare.summary import Run, counting, cpu, find, wall


def ablation(run: Run) -> Plot | None:
    """Return what each policy of the control plane buys."""
    found = [w for w in run["workloads"] if any(n.startswith("step-") for n in w["sides"])]
    found = [w for w in found if any(counting(s) for s in w["sides"].values())]
    if not found:
        return None
    measures: list[tuple[str, Callable[[Any], float], Any]] = [
        ("time, s", wall, statistics.median),
        ("CPU, s", cpu, statistics.median),
        ("aggregators started", lambda r: r["created"], statistics.mean),
    ]
    figure, grid = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    for axes, (label, of, middle) in zip(grid, measures, strict=True):
        _groups(axes, found, of, middle, {w["name"]: str(w["clients"]) for w in found})
        axes.set_title(label)
        axes.set_xlabel("updates in a burst")
        axes.set_ylim(0, None)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    runs = said(found[0]) if len(found) == 1 else summed_up(found)
    bars = middles(run, "medians (of starts: means)")
    caption = f"{runs} Each step has what those before it have. {bars}"
    return Plot("Ablation: what each policy buys", svg(figure), caption)


def data_plane(run: Run) -> Plot | None:
    """Return what shared memory and in-kernel routing buy."""
    found = find(run, "burst-8x45mb")
    if found is None:
        return None
    steps = {"vanilla": "by value", "lifl-socket": "+shared memory", "lifl": "+in-kernel routing"}
    sides = {n: counting(found["sides"][n]) for n in steps if n in found["sides"]}
    sides = {n: rounds for n, rounds in sides.items() if rounds}
    if len(sides) < 2:
        return None
    figure, grid = plt.subplots(1, 2, figsize=(8, 2.4), layout="constrained")
    for axes, (label, of) in zip(grid, (("time, s", wall), ("CPU, s", cpu)), strict=True):
        for y, (name, rounds) in enumerate(sides.items()):
            bar(axes, y, [of(r) for r in rounds], colour=COLOURS[name], middle=statistics.median)
        axes.set_yticks(range(len(sides)), [steps[n] for n in sides])
        axes.invert_yaxis()
        axes.set_title(label)
        axes.set_xlim(0, None)
    bars = middles(run, "medians")
    caption = (
        f"{said(found)} By value: the same aggregator in vanilla serverless, control plane "
        f"included; this data plane has no switch that turns shared memory off. {bars}"
    )
    return Plot("Ablation: what the data plane buys", svg(figure), caption)


def _groups(
    axes: Axes,
    found: Sequence[Any],
    of: Callable[[Any], float],
    middle: Callable[[Sequence[float]], float],
    labels: Mapping[str, str],
) -> None:
    names = sorted({n for w in found for n in w["sides"]})
    for i, name in enumerate(names):
        for x, w in enumerate(found):
            rounds = counting(w["sides"].get(name, {"rounds": ()}))
            if not rounds:
                continue
            values = [of(r) for r in rounds]
            at = x + (i - (len(names) - 1) / 2) * 0.16
            label = w["sides"][name]["title"] if x == 0 else "_"
            axes.bar(at, middle(values), 0.15, color=STEPS[i % len(STEPS)], label=label)
            axes.plot([at, at], [min(values), max(values)], color=INK, linewidth=1, alpha=0.7)
    axes.set_xticks(range(len(found)), [labels[w["name"]] for w in found])
