"""What the demo shows: a live line per figure, a summary table, a plot."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.ticker import MaxNLocator
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

mpl.use("Agg")
import matplotlib.pyplot as plt

History = list[dict[str, Any]]


class Progress:
    """The job as of now; rich draws it again and again."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._status: dict[str, Any] = {}
        self._history: History = []
        self._aggregators = 0

    def update(self, status: dict[str, Any], history: History, aggregators: list[Any]) -> None:
        """Take in what the platform says."""
        self._status, self._history = status, history
        self._aggregators = len(aggregators)

    def __rich__(self) -> RenderableType:
        status = self._status
        if "round" not in status:
            return f"{self._job}: waiting"
        accuracy = next((r["accuracy"] for r in self._history[::-1] if r["accuracy"]), None)
        table = Table.grid(padding=(0, 2))
        done, rounds = len(self._history), status["rounds"]
        table.add_row("round", f"{status['round']} of {rounds} ({status['phase']})")
        table.add_row("updates in", f"{status['accepted']} of {status['goal']}")
        table.add_row("accuracy", "-" if accuracy is None else f"{accuracy:.2%}")
        table.add_row("aggregators alive", str(self._aggregators))
        return Group(table, ProgressBar(total=rounds, completed=done, width=50))


def summary(outcome: dict[str, Any]) -> Table:
    """Return the figures as a table."""
    seconds = outcome["round_seconds"]
    table = Table(title=f"job {outcome['job']}: {outcome['state']}", show_header=False)
    for name, value in (
        ("accuracy on held-out data", f"{outcome['accuracy']:.2%}"),
        ("rounds", outcome["rounds"]),
        ("clients", outcome["clients"]),
        ("updates accepted", outcome["updates_accepted"]),
        ("updates aggregated", outcome["updates_aggregated"]),
        ("median round", f"{median(seconds):.2f} s" if seconds else "-"),
        ("data plane", outcome["dataplane"]),
        ("nodes", outcome["nodes"]),
        ("whole run", f"{outcome['seconds']:.1f} s"),
    ):
        table.add_row(name, str(value))
    return table


def plot_accuracy(history: History, target: float, path: Path) -> None:
    """Draw accuracy over rounds as a PNG."""
    rated = [row for row in history if row["accuracy"] is not None]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([r["round"] for r in rated], [100 * r["accuracy"] for r in rated], marker="o")
    axes.axhline(100 * target, linestyle="--", color="grey", label=f"{target:.0%}")
    axes.set(xlabel="round", ylabel="accuracy on held-out digits, %", ylim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
