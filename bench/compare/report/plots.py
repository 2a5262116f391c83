"""Plots of a run as SVG that can stand in a page, light or dark.

Why: text and axes take the page's own colour (``currentColor``), series have colours that can be
told apart on both grounds. Each plot comes with a caption that says what was run and how noisy it
was. It must not measure.
"""

from __future__ import annotations

import io
import re
import statistics
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.compare.report.tables import noise, number, said, true_means
from bench.compare.summary import Run, counting, cpu, find, wall

INK = "#010203"
"""Stands for the page's own colour, and is replaced by it."""
COLOURS = {
    "lifl": "#e4572e",
    "lifl-socket": "#f0a38c",
    "serverful": "#4c8fd6",
    "vanilla": "#9a6fd0",
    "vanilla-warm": "#c3a8e6",
    "flower": "#c99700",
    "flower-inprocess": "#e3c566",
    "nvflare": "#3aa17e",
}
SHORT = {
    "lifl": "LIFL",
    "lifl-socket": "LIFL, plain sockets",
    "serverful": "always-on gRPC server",
    "vanilla": "vanilla serverless",
    "vanilla-warm": "vanilla, kept warm",
    "flower": "Flower",
    "flower-inprocess": "Flower's FedAvg alone",
    "nvflare": "NVFlare",
}
STEPS = ("#8a8f98", "#9a6fd0", "#4c8fd6", "#3aa17e", "#e4572e")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lifl",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
MB = 1e6


class Plot(NamedTuple):
    """A plot's heading, its picture, and what was run."""

    title: str
    svg: str
    caption: str


def all_plots(run: Run, trainings: Mapping[str, Mapping[str, Any]]) -> Iterator[Plot]:
    """Yield every plot that the run has something for; ``trainings`` are records by task."""
    with mpl.rc_context(STYLE):
        for make in (completion, cpu_per_update, created, memory, ablation, data_plane):
            plot = make(run)
            if plot is not None:
                yield plot
        plot = accuracy(run, trainings)
        if plot is not None:
            yield plot


def completion(run: Run) -> Plot | None:
    """Return time to the global model by workload and side."""
    return _bars(run, "Time to the global model", "seconds (logarithmic)", wall, _plain(run))


def cpu_per_update(run: Run) -> Plot | None:
    """Return CPU seconds an update by workload and side."""
    return _bars(
        run,
        "CPU for one update",
        "CPU seconds an update, user and system, all processes of a side (logarithmic)",
        lambda r: cpu(r) / r["updates"],
        _plain(run),
    )


def created(run: Run) -> Plot | None:
    """Return how many aggregators are started for a round."""
    shown = [
        w
        for w in run["workloads"]
        if any(r["created"] for s in w["sides"].values() for r in counting(s))
    ]
    return _bars(
        run,
        "Aggregators started for a round",
        "aggregators started a round (mean)",
        lambda r: r["created"],
        shown,
        log=False,
        middle=statistics.mean,
    )


def memory(run: Run) -> Plot | None:
    """Return memory over time, in the first workload that has several sides at once."""
    found = next((w for w in _plain(run) if w["together"]), None)
    if found is None:
        return None
    figure, axes = _axes(8, 3.2)
    longest = 0.0
    for name, side in found["sides"].items():
        rounds = counting(side)
        if not rounds:
            continue
        shown = sorted(rounds, key=wall)[len(rounds) // 2]
        times, sizes = [t for t, _ in shown["memory"]], [n / MB for _, n in shown["memory"]]
        colour = COLOURS.get(name)
        axes.plot(times, sizes, color=colour, label=_short(name, side), linewidth=1.8)
        axes.plot(times[-1:], sizes[-1:], "o", color=colour, markersize=4)
        longest = max(longest, times[-1])
    axes.set(xlabel="seconds since the round began (logarithmic)", ylabel="MB", ylim=(0, None))
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_xlim(0, longest * 1.1)
    _plain_ticks(axes)
    _legend(figure, axes)
    caption = (
        f"{said(found)} Of each side's rounds the middle one by time; anonymous and shared memory "
        "of all its processes, shared pages once, clients left out."
    )
    return Plot("Memory over time", _svg(figure), caption)


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
        _groups(axes, found, of, middle, {w["name"]: f"{w['clients']} updates" for w in found})
        axes.set_title(label)
        axes.set_ylim(0, None)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    caption = f"{said(found[0])} Each step has what those before it have. {_noise(run)}"
    return Plot("Ablation: what each policy buys", _svg(figure), caption)


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
            _bar(axes, y, [of(r) for r in rounds], colour=COLOURS[name], middle=statistics.median)
        axes.set_yticks(range(len(sides)), [steps[n] for n in sides])
        axes.invert_yaxis()
        axes.set_title(label)
        axes.set_xlim(0, None)
    caption = (
        f"{said(found)} By value: the same aggregator in vanilla serverless, control plane "
        f"included; this data plane has no switch that turns shared memory off. {_noise(run)}"
    )
    return Plot("Ablation: what the data plane buys", _svg(figure), caption)


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
                label = _short(name, side)
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
    return Plot("Time to accuracy", _svg(figure), caption)


def _plain(run: Run) -> list[Any]:
    """Return workloads of whole sides, without trainings and ablations."""
    return [
        w
        for w in run["workloads"]
        if not w["sizes"] and not any(n.startswith("step-") for n in w["sides"])
    ]


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
            rows.append((y, name, _short(name, side), [of(r) for r in counting(side)]))
        y += 1.4
    if not rows:
        return None
    figure, axes = _axes(8, 0.7 + 0.22 * y)
    steps = sorted({name for _, name, _, _ in rows if name.startswith("step-")})
    for at, name, _, values in rows:
        colour = COLOURS.get(name) or STEPS[steps.index(name) % len(STEPS)]
        _bar(axes, at, values, colour=colour, middle=middle)
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
        _plain_ticks(axes)
    else:
        axes.set_xlim(0, None)
        axes.margins(x=0.1)
    runs = " ".join(sorted({said(w) for w in shown})) if len(shown) <= 3 else _summed_up(shown)
    return Plot(title, _svg(figure), f"{runs} {_noise(run)}")


def _summed_up(shown: Sequence[Any]) -> str:
    rounds = sorted({w["rounds"] * w["passes"] for w in shown})
    many = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else str(rounds[0])
    return f"{len(shown)} workloads, {many} rounds a side, sides in turn."


def _noise(run: Run) -> str:
    return f"Bars are medians (of starts: means), whiskers least to most; {noise(run)}."


def _bar(
    axes: Axes,
    y: float,
    values: Sequence[float],
    *,
    colour: str | None,
    middle: Callable[[Sequence[float]], float],
) -> None:
    height = middle(values)
    axes.barh(y, height, 0.86, color=colour)
    axes.plot([min(values), max(values)], [y, y], color=INK, linewidth=1, alpha=0.7)
    axes.annotate(
        number(height),
        (max(height, *values), y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def _short(name: str, side: Mapping[str, Any]) -> str:
    return SHORT.get(name, side["title"])


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


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.grid(axis="x", color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    return figure, axes


def _plain_ticks(axes: Axes) -> None:
    """Have a logarithmic axis say 0.1, 1, 10 and not powers."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)


def _svg(figure: Figure) -> str:
    """Return the picture, sized by its page, in the page's own colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # ids are the page's: two plots must not share one
    own = f"p{zlib.crc32(svg.encode()):08x}"
    svg = re.sub(r'id="([^"]+)"', rf'id="{own}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{own}-", svg)
    return re.sub(r'<svg ([^>]*?)width="[^"]*pt"', r"<svg \1", svg, count=1)
