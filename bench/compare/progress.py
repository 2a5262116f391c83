"""What a person sees while it runs: which workload, which round, how long still.

Why: an hour without a word looks like a hang. It must not keep anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.compare.outcome import Played, Side
from bench.compare.workloads import Workload


class Shown:
    """A ``runner.Watcher`` that shows a bar a workload and a line a loss."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}"),
            console=console,
            auto_refresh=False,  # a thread that draws would take its share of what is measured
        )
        self._task = self._progress.add_task("starting", total=None, last="")

    def __enter__(self) -> Shown:
        self._progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._progress.stop()

    def say(self, what: str) -> None:
        """Show a step that is no workload."""
        self._progress.update(self._task, description=what, last="", refresh=True)
        if not self._console.is_terminal:
            self._console.print(what)

    def begin(self, workload: Workload, sides: Sequence[str], plays: int) -> None:
        """Show that a workload begins."""
        self._progress.reset(
            self._task, description=workload.name, total=plays, last=", ".join(sides)
        )
        self._progress.refresh()
        if not self._console.is_terminal:
            self._console.print(f"{workload.name}: {', '.join(sides)}")

    def played(self, side: Side, played: Played) -> None:
        """Show that a round has been played."""
        what = "warm-up" if played.index < 0 else f"{played.round.wall:.2f} s"
        self._progress.update(self._task, advance=1, last=f"{side.title}: {what}", refresh=True)

    def lost(self, side: str, why: str) -> None:
        """Tell that a side does not take part any more."""
        line = why.strip().splitlines()[0] if why.strip() else "no reason given"
        self._console.print(f"  {side} is left out: {line}", highlight=False, style="yellow")
