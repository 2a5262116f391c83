"""A run beside an earlier one: how many times as long, and as much CPU, each side takes now.

Why: whoever changes the code wants to know what it did, and whether that is more than noise.
Pure but for reading the earlier run's file.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare.report.tables import Table
from bench.compare.report.wording import number
from bench.compare.summary import Run, counting, cpu, find, wall


def load(directory: Path) -> dict[str, Any]:
    """Return the run in a directory.

    Raises
    ------
    ValueError
        if there is none.
    """
    path = directory / "rounds.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as e:
        raise ValueError(f"{directory} has no earlier run: {e}") from e
    if "workloads" not in found:
        raise ValueError(f"{path} is no run of this bench: it has no workloads")
    return found


def compare(now: Run, then: Run) -> Table:
    """Return ratios of now over then for all that both have measured."""
    rows, marks = [], []
    for w in now["workloads"]:
        before = find(then, w["name"])
        if before is None:
            continue
        for name, side in w["sides"].items():
            earlier = before["sides"].get(name)
            new, old = counting(side), counting(earlier) if earlier else []
            if not new or not old:
                continue
            times = ratio([wall(r) for r in new], [wall(r) for r in old])
            used = ratio([cpu(r) for r in new], [cpu(r) for r in old])
            rows.append((w["name"], side["title"], _shown(times), _shown(used)))
            marks.append("bad" if times[1] > 1 else "good" if times[2] < 1 else "")
    said = "" if _machine(now) == _machine(then) else " The two are of different machines."
    note = (
        "Medians now over medians then; in brackets what the ratio of any two rounds lies between. "
        f"Below 1 is better now.{said}"
    )
    columns = ("workload", "side", "time, now over then", "CPU, now over then")
    return Table("Against the earlier run", note, columns, rows, marks)


def ratio(new: Sequence[float], old: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of medians, and the least and greatest of any pair."""
    return (
        statistics.median(new) / statistics.median(old),
        min(new) / max(old),
        max(new) / min(old),
    )


def _shown(found: tuple[float, float, float]) -> str:
    middle, least, most = map(number, found)
    return f"{middle} [{least} .. {most}]"


def _machine(run: Run) -> tuple[Any, ...]:
    return tuple(run["machine"].get(k) for k in ("cpu", "cores", "kernel"))
