"""Plots of whole sides: time, CPU, aggregators started, memory and accuracy over time.

Why: each shows one thing that was measured, with a caption that says what was run and how noisy it
was. It must not measure.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from bench.compare.report.ablations import ablation, data_plane
from bench.compare.report.drawing import (
    COLOURS,
    INK,
    MB,
    STEPS,
    STYLE,
    Plot,
    bar,
    drawn,
    legend,
    plain_ticks,
    short,
    svg,
)
from bench.compare.report.wording import middles, said, summed_up, true_means
from bench.compare.summary import ROUND, Run, counting, cpu, find, wall

OTHERS = ", other loads"


def all_plots(run: Run, trainings: Mapping[str, Mapping[str, Any]]) -> Iterator[Plot]:
    """Yield every plot that the run has something for; ``trainings`` are records by task."""
    with mpl.rc_context(STYLE):
        made = (
            *(completion(run), cpu_per_update(run), accuracy(run, trainings), created(run)),
            *(memory(run), ablation(run), data_plane(run)),
            *(completion(run, others=True), cpu_per_update(run, others=True)),
        )
        yield from (plot for plot in made if plot is not None)


def completion(run: Run, *, others: bool = False) -> Plot | None:
    """Return time to the global model by side, for the round that is compared, or other loads."""
    title = f"Time to the global model{OTHERS if others else ''}"
    return _bars(run, title, "seconds (logarithmic)", wall, _whole(run, others=others))


def cpu_per_update(run: Run, *, others: bool = False) -> Plot | None:
    """Return CPU seconds an update by side, for the round that is compared, or other loads."""
    return _bars(
        run,
        f"CPU for one update{OTHERS if others else ''}",
        "CPU seconds an update, user and system, all processes of a side (logarithmic)",
        lambda r: cpu(r) / r["updates"],
        _whole(run, others=others),
    )


def created(run: Run) -> Plot | None:
    """Return how many aggregators are started for a round, by sides that ever start any."""
    shown = []
    for w in [*_plain(run), *(w for w in run["workloads"] if w["sizes"])]:
        starting = {n: s for n, s in w["sides"].items() if any(r["created"] for r in s["rounds"])}
        if any(r["created"] for s in starting.values() for r in counting(s)):
            shown.append({**w, "sides": starting})
    plot = _bars(
        run,
        "Aggregators started for a round",
        "aggregators started a round (mean)",
        lambda r: r["created"],
        shown,
        log=False,
        middle=statistics.mean,
    )
    if plot is None:
        return None
    return plot._replace(
        caption=f"{plot.caption} Sides that keep the same processes throughout are left out; "
        "warm-ups do not count."
    )


def memory(run: Run) -> Plot | None:
    """Return memory over time, in the first workload that has several sides at once."""
    found = next((w for w in _plain(run) if w["together"]), None)
    if found is None:
        return None
    figure, axes = drawn(8, 3.2)
    longest = 0.0
    for name, side in found["sides"].items():
        rounds = counting(side)
        if not rounds:
            continue
        shown = sorted(rounds, key=wall)[len(rounds) // 2]
        times, sizes = [t for t, _ in shown["memory"]], [n / MB for _, n in shown["memory"]]
        colour = COLOURS.get(name)
        axes.plot(times, sizes, color=colour, label=short(name, side), linewidth=1.8)
        axes.plot(times[-1:], sizes[-1:], "o", color=colour, markersize=4)
        longest = max(longest, times[-1])
    axes.set(xlabel="seconds since the round began (logarithmic)", ylabel="MB", ylim=(0, None))
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_xlim(0, longest * 1.1)
    plain_ticks(axes)
    legend(figure, axes)
    caption = (
        f"{said(found)} Of each side's rounds the middle one by time; anonymous and shared memory "
        "of all its processes, shared pages once, clients left out."
    )
    return Plot("Memory over time", svg(figure), caption)


def accuracy(run: Run, trainings: Mapping[str, Mapping[str, Any]]) -> Plot | None:
    """Return accuracy over time, by training and side."""
    shown = []
    for task, record in trainings.items():
        w = find(run, f"train-{task}")
        if w is not None and any(counting(s) for s in w["sides"].values()):
            shown.append((record, w))
    if not shown:
        return None
    figure, grid = plt.subplots(
        1, len(shown), figsize=(8, 3.4), layout="constrained", squeeze=False
    )
    for axes, (record, w) in zip(grid[0], shown, strict=True):
        for name, side in w["sides"].items():
            times, reached, at = [0.0], [0.0], 0.0
            for row, played in zip(record["rounds"], counting(side), strict=False):
                at += wall(played)
                times.append(at)
                reached.append(100 * row["accuracy"])
            if at:
                label = short(name, side)
                axes.plot(times, reached, color=COLOURS.get(name), label=label, marker=".")
        axes.axhline(100 * record["task"]["target"], linestyle=":", color=INK, linewidth=1)
        axes.set(xlabel="seconds", ylabel="accuracy on held-out samples, %", ylim=(0, 100))
        axes.set_title(record["task"]["title"])
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    runs = " ".join(said(w) for _, w in shown)
    data = "; ".join(f"{r['task']['title']}: {r['data']}" for r, _ in shown)
    caption = (
        f"{runs} Trained once for real; each side then plays the same rounds, with clients that "
        f"send after their own training time; the mean of the same updates is the same model "
        f"whoever makes it.{true_means(run)} Data: {data}."
    )
    return Plot("Time to accuracy", svg(figure), caption)


def _plain(run: Run) -> list[Any]:
    """Return workloads of whole sides, without trainings and ablations."""
    return [
        w
        for w in run["workloads"]
        if not w["sizes"] and not any(n.startswith("step-") for n in w["sides"])
    ]


def _whole(run: Run, *, others: bool) -> list[Any]:
    """Return the workload that the page's head speaks of, or all but it."""
    return [w for w in _plain(run) if (w["name"] != ROUND) == others]


def _bars(
    run: Run,
    title: str,
    label: str,
    of: Callable[[Mapping[str, Any]], float],
    shown: Sequence[Any],
    *,
    log: bool = True,
    middle: Callable[[Sequence[float]], float] = statistics.median,
) -> Plot | None:
    rows: list[tuple[float, str, str, list[float]]] = []
    heads: list[tuple[float, str]] = []
    y = 0.0
    for w in shown:
        measured = {n: s for n, s in w["sides"].items() if counting(s)}
        if not measured:
            continue
        heads.append((y, f"{w['name'].partition('-')[0]}, {w['clients']} × {w['title']}"))
        for name, side in measured.items():
            y += 1
            rows.append((y, name, short(name, side), [of(r) for r in counting(side)]))
        y += 1.4
    if not rows:
        return None
    figure, axes = drawn(8, 0.7 + 0.22 * y)
    steps = sorted({name for _, name, _, _ in rows if name.startswith("step-")})
    for at, name, _, values in rows:
        colour = COLOURS.get(name) or STEPS[steps.index(name) % len(STEPS)]
        bar(axes, at, values, colour=colour, middle=middle)
    axes.set_yticks([at for at, *_ in rows], [text for _, _, text, _ in rows])
    for at, head in heads:
        place = axes.get_yaxis_transform()
        axes.text(0.01, at, head, transform=place, va="center", fontsize=9, fontweight="bold")
    axes.set_ylim(y - 0.9, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)
    if log:
        axes.set_xscale("log")
        lowest = min(min(v) for _, _, _, v in rows)
        highest = max(max(v) for _, _, _, v in rows)
        axes.set_xlim(lowest / 2, highest * 2.5)
        plain_ticks(axes)
    else:
        axes.set_xlim(0, None)
        axes.margins(x=0.1)
    runs = " ".join(said(w) for w in shown) if len(shown) <= 2 else summed_up(shown)
    bars = middles(run, "medians" if log else "means")
    return Plot(title, svg(figure), f"{runs} {bars}")
