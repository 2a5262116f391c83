"""Rows of a report's tables, as text; Markdown and HTML are made of the same.

Why: both reports must say the same. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.compare.report.wording import judged, number, said, spread
from bench.compare.summary import Run, counting, cpu, wall

Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, a sentence on what it shows, columns and rows."""

    title: str
    note: str
    columns: Row
    rows: Sequence[Row]
    marks: Sequence[str] = field(default_factory=tuple)
    """By row: ``good``, ``bad`` or nothing."""


VERDICTS = {True: "holds", False: "below the bar", None: ""}


def bars(summary: Mapping[str, Any]) -> Table:
    """Return the table of the summary's figures."""
    rows, marks = [], []
    for key, f in summary.items():
        missing = f["median"] is None
        shown = "–" if missing else judged(f["median"], f["bar"], f["passed"])
        within = "" if missing else f"[{f['min']:.2f} .. {f['max']:.2f}], n = {f['n']}"
        verdict = "void" if f["void"] else VERDICTS[f["passed"]]
        if missing:
            verdict = "not measured"
        rows.append((f"`{key}`", f["what"], shown, within, f["bar"] or "", verdict, f["reason"]))
        good = f["passed"] is True
        marks.append("good" if good else "bad" if f["bar"] and verdict else "")
    note = "Ratios of rounds that were played just after one another: median, least and most."
    columns = ("key", "figure", "median", "spread", "bar", "", "reason")
    return Table("Bars", note, columns, rows, marks)


def workloads(run: Run) -> Iterator[Table]:
    """Yield a table a workload: what each side took for it."""
    for w in run["workloads"]:
        rows = [_side(s) for s in w["sides"].values()]
        columns = (
            *("side", "time to model, s", "CPU, s an update", "peak memory, MB"),
            *("aggregators started", "nodes", "switches an update", "n"),
        )
        yield Table(f"{w['name']}: {w['title']}", said(w), columns, rows)


def parts(run: Run) -> Table | None:
    """Return what each part of the run took; None where nobody noted it."""
    noted = run.get("parts") or ()
    if not noted:
        return None
    told = ("expected", "seconds", "copying")
    rows = [(p["name"], *(number(p[k]) for k in told)) for p in noted]
    whole, planned = (sum(p[k] for p in noted) for k in ("seconds", "expected"))
    rows.append(("together", number(planned), number(whole), ""))
    note = (
        "Seconds from a part's beginning to its end, starts of sides included, beside what the "
        "run was planned with; and how fast one thread copied memory when it began, for that "
        "holds up every side and changes with a virtual machine's neighbours. "
        + _restless(run["workloads"])
    )
    columns = ("part", "expected, s", "took, s", "memory, GB/s")
    return Table("Where the time went", note, columns, rows)


def _restless(workloads: Sequence[Mapping[str, Any]]) -> str:
    """Say before how many rounds the machine did not come to rest."""
    rounds = sum(w["restless"] for w in workloads)
    if not rounds:
        return "The machine was at rest before each round."
    return f"Rounds before which it did not come to rest within seconds: {rounds}."


def _side(side: Mapping[str, Any]) -> Row:
    rounds = counting(side)
    if not rounds:
        why = side["failed"] or side["not_run"] or "no round was played"
        what = "could not be measured" if side["failed"] else "not run"
        return (side["title"], f"{what}: {why}", "", "", "", "", "", "0")
    switches = [r["switches"] / r["updates"] for r in rounds if r["switches"] is not None]
    title = side["title"] + (f" (then failed: {side['failed']})" if side["failed"] else "")
    return (
        title,
        spread([wall(r) for r in rounds]),
        spread([cpu(r) / r["updates"] for r in rounds]),
        number(max(r["peak"] for r in rounds) / 1e6),
        number(statistics.mean(r["created"] for r in rounds), 2),
        number(statistics.median(r["nodes"] for r in rounds), 2),
        number(statistics.median(switches), 2) if switches else "–",
        str(len(rounds)),
    )


def audit(run: Run) -> Table | None:
    """Return the overhead audit, a column a side; None if there was none."""
    audited = run.get("audit") or {}
    sides = {name: a for name, a in audited.items() if a.get("rows")}
    if not sides:
        return None
    whats = list(dict.fromkeys(r["what"] for a in sides.values() for r in a["rows"]))
    rows = []
    for what in whats:
        row = [what]
        for a in sides.values():
            found = next((r for r in a["rows"] if r["what"] == what), {})
            row.append(_audited(found))
        rows.append(row)
    first = next(iter(sides.values()))
    note = (
        f"Counted in the kernel by eBPF over {first['rounds']} rounds of {first['workload']} that "
        "no time is reported of; “a hop” is one hand-over from one function to the next, a "
        "client's upload included. Figures in italics were found by reading the code: no kernel "
        "sees what happens within a process."
    )
    return Table("Overhead audit", note, ("", *(a["title"] for a in sides.values())), rows)


def _audited(row: Mapping[str, Any]) -> str:
    if row.get("by_hand_per_hop") is not None:
        return f"*{number(row['by_hand_per_hop'])} a hop*"
    if row.get("per_update") is None:
        return "–"
    return f"{number(row['per_update'])} an update, {number(row['per_hop'])} a hop"


def simulated(run: Run) -> Table | None:
    """Return simulated against measured times; None if there are none."""
    rows = [
        (
            r["workload"],
            r["side"],
            number(r["measured"]),
            number(r["simulated"]),
            f"{100 * r['error']:.0f} %" + (" (fitted to)" if r.get("fitted") else ""),
        )
        for r in (run.get("sim") or {}).get("rows", ())
    ]
    if not rows:
        return None
    columns = ("workload", "side", "measured, s", "simulated, s", "error")
    note = (
        "`lifl sim` on the workloads that were really run: median time to the global model. "
        "Rows that a side's costs were fitted to do not count."
    )
    return Table("Simulated and measured", note, columns, rows)


def stand_ins(run: Run) -> Table:
    """Return what of each side is not the real thing, and its versions."""
    found: dict[str, tuple[str, list[str], Mapping[str, str], str]] = {}
    for w in run["workloads"]:
        for name, s in w["sides"].items():
            if not s["rounds"] or name.startswith("step-"):
                continue
            entry = found.setdefault(name, (s["title"], [], s["versions"], s["counted"]))
            known = entry[1]
            known += [i for i in s["stand_ins"] if i not in known]
    rows = [
        (
            title,
            "; ".join(known) or "nothing",
            ", ".join(f"{k} {v}" for k, v in versions.items()),
            counted,
        )
        for title, known, versions, counted in found.values()
    ]
    given = run.get("handoff") or {}
    if given.get("stand_ins"):
        made_of = ", ".join(f"{k} {v}" for k, v in given["versions"].items())
        rows.append(("hand-off", "; ".join(given["stand_ins"]), made_of, given["counted"]))
    columns = ("side", "stand-ins and what flatters or wrongs it", "versions", "counted")
    return Table("What is not the real thing", "", columns, rows)


def left_out(run: Run) -> Table | None:
    """Return what was not run or failed; None if all was."""
    rows = [
        (
            w["name"],
            s["title"],
            "could not be measured" if s["failed"] else "not run",
            s["failed"] or s["not_run"],
        )
        for w in run["workloads"]
        for s in w["sides"].values()
        if s["failed"] or s["not_run"]
    ]
    rows += [(name, "", "not run", why) for name, why in run.get("lost", {}).items()]
    if not rows:
        return None
    return Table("Not run", "", ("workload", "side", "", "reason"), rows)


def references(run: Run) -> Table | None:
    """Return how sides' paths did against what is published; None if none was asked."""
    rows, marks = [], []
    for w in run["workloads"]:
        for s in w["sides"].values():
            for r in s["references"]:
                rows.append(
                    (
                        s["title"],
                        r["path"],
                        number(r["measured"], 4),
                        number(r["published"], 4),
                        f"{r['measured'] / r['published']:.2f}",
                    )
                )
                marks.append("good" if r["holds"] else "bad")
    for r in (run.get("handoff") or {}).get("references", ()):
        share = f"{r['measured'] / r['published']:.2f}"
        rows.append(
            ("hand-off", r["path"], number(r["measured"], 4), number(r["published"], 4), share)
        )
        marks.append("good" if r["holds"] else "bad")
    if not rows:
        return None
    note = "A ratio over a side whose path is below 0.8 of what is published for it is void."
    columns = ("side", "path", "here, MB/s", "published, MB/s", "share")
    return Table("Are the baselines good enough?", note, columns, rows, marks)
