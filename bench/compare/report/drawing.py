"""How pictures of a report look: colours, bars with whiskers, and SVG that can stand in a page.

Why: text and axes take the page's own colour (``currentColor``), series have colours that can be
told apart on a light and on a dark ground; every plot does it alike. It must not know what is
plotted.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.compare.report.wording import number

INK = "#010203"
"""Stands for the page's own colour, and is replaced by it."""
COLOURS = {
    "lifl": "#e4572e",
    "lifl-socket": "#f0a38c",
    "lifl-durable": "#b8432a",
    "lifl-tree": "#d98a2b",
    "serverful": "#4c8fd6",
    "serverful-flat": "#9cc3ee",
    "vanilla": "#9a6fd0",
    "vanilla-warm": "#c3a8e6",
    "flower": "#c99700",
    "flower-inprocess": "#e3c566",
    "nvflare": "#3aa17e",
}
SHORT = {
    "lifl": "LIFL",
    "lifl-socket": "LIFL, plain sockets",
    "lifl-durable": "LIFL, checkpoint first",
    "lifl-tree": "LIFL, leaves of two",
    "serverful": "always-on gRPC server",
    "serverful-flat": "always-on, no tree",
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


def bar(
    axes: Axes,
    y: float,
    values: Sequence[float],
    *,
    colour: str | None,
    middle: Callable[[Sequence[float]], float],
) -> None:
    """Draw the middle of ``values`` as a bar at ``y``, with its number and their range."""
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


def short(name: str, side: Mapping[str, Any]) -> str:
    """Return what a side is called beside its bars."""
    return SHORT.get(name, side["title"])


def drawn(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a picture with one grid, sizes in inches."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.grid(axis="x", color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    return figure, axes


def plain_ticks(axes: Axes) -> None:
    """Have a logarithmic axis say 0.1, 1, 10 and not powers."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Axes) -> None:
    """Put the names of what is drawn below it."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)


def svg(figure: Figure) -> str:
    """Return the picture, sized by its page, in the page's own colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    found = buffer.getvalue()
    found = found[found.index("<svg") :].replace(INK, "currentColor")
    found = re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.DOTALL)
    # ids are the page's: two plots must not share one
    own = f"p{zlib.crc32(found.encode()):08x}"
    found = re.sub(r'id="([^"]+)"', rf'id="{own}-\1"', found)
    found = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{own}-", found)
    return re.sub(r'<svg ([^>]*?)width="[^"]*pt"', r"<svg \1", found, count=1)
