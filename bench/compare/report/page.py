"""Writes ``summary.json``, ``report.md`` and ``index.html``.

Why: the page's first screen is the point, in words, numbers and one picture; all else comes below.
It is one file: styles and pictures within, nothing is fetched. It must not compute figures.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.compare.report import tables, wording
from bench.compare.report.against import compare
from bench.compare.report.drawing import Plot
from bench.compare.report.plots import all_plots
from bench.compare.report.tables import Table
from bench.compare.summary import ROUND, Run, build, find

NBSP = "\N{NO-BREAK SPACE}"
STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --ground: #fff; --soft: #5d6773;
  --line: #d9dee4; --card: #f5f7f9; --good: #1e7f4f; --bad: #b3372b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --ground: #14181d; --soft: #9aa5b1;
  --line: #323a44; --card: #1d232a; --good: #5cc78f; --bad: #f08a7e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; color: var(--ink);
  background: var(--ground); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; }
p.lead { margin: 0 0 1rem; color: var(--soft); }
.cards { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .7rem .9rem; }
.card b { display: block; font-size: 1.9rem; line-height: 1.15; color: var(--good); }
.card.below b { color: var(--bad); }
.card.weak b { color: var(--soft); }
.card span { display: block; font-size: .9rem; }
.card small, figcaption, .note { color: var(--soft); font-size: .85rem; }
figure { margin: 1.2rem 0 0; }
figure svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; margin: .4rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td { font-variant-numeric: tabular-nums; }
tr.good td:nth-child(6) { color: var(--good); } tr.bad td:nth-child(6) { color: var(--bad); }
code { font-size: .95em; }
details { margin-top: 1rem; } summary { cursor: pointer; font-weight: 600; }
"""


def write(
    run: Run,
    out: Path,
    *,
    trainings: Mapping[str, Mapping[str, Any]] | None = None,
    against: Run | None = None,
) -> dict[str, Any]:
    """Write all three into ``out`` and return the summary.

    ``trainings`` are the records by task, ``against`` an earlier run to compare with.
    """
    out.mkdir(parents=True, exist_ok=True)
    summary = build(run)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    later = compare(run, against) if against else None
    (out / "report.md").write_text(markdown(run, summary, later))
    plots = list(all_plots(run, trainings or {}))
    (out / "index.html").write_text(page(run, summary, plots, later))
    return summary


def markdown(run: Run, summary: Mapping[str, Any], later: Table | None = None) -> str:
    """Return the report as Markdown."""
    lines = ["# LIFL side by side", "", _lead(run), ""]
    lines += [f"- **{big}** {what} {small}" for big, what, small, _ in _cards(summary)]
    for table in _tables(run, summary, later):
        lines += ["", f"## {table.title}", ""]
        lines += [table.note, ""] if table.note else []
        lines.append("| " + " | ".join(table.columns) + " |")
        lines.append("|" + " --- |" * len(table.columns))
        for row in table.rows:
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |")
    return "\n".join(lines) + "\n"


def page(
    run: Run, summary: Mapping[str, Any], plots: Sequence[Plot], later: Table | None = None
) -> str:
    """Return the report as one HTML page."""
    cards = "".join(
        f'<div class="card {mark}"><b>{_text(big)}</b>'
        f"<span>{_text(what)}</span><small>{_text(small)}</small></div>"
        for big, what, small, mark in _cards(summary)
    )
    figures = "".join(_figure(p) for p in plots)
    first, *rest = _tables(run, summary, later)
    sections = "".join(_section(t) for t in rest)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>LIFL side by side</title><style>{STYLE}</style></head><body>"
        f"<h1>{_text(_point(run, summary))}</h1>"
        f'<p class="lead">{_text(_lead(run))}</p>'
        f'<div class="cards">{cards}</div>{figures}{_section(first)}{sections}'
        "</body></html>\n"
    )


def _tables(run: Run, summary: Mapping[str, Any], later: Table | None) -> Iterator[Table]:
    yield tables.bars(summary)
    if later is not None:
        yield later
    for found in (tables.audit(run), tables.simulated(run), tables.references(run)):
        if found is not None:
            yield found
    yield from tables.workloads(run)
    left_out = tables.left_out(run)
    if left_out is not None:
        yield left_out
    yield tables.stand_ins(run)
    took = tables.parts(run)
    if took is not None:
        yield took


def _point(run: Run, summary: Mapping[str, Any]) -> str:
    """Return the report's point in one sentence."""
    named = {
        "serverful": "an always-on server",
        "vanilla": "vanilla serverless",
        "nvflare": "NVFlare",
        "flower": "Flower",
    }
    said = []
    for side, name in named.items():
        figure = summary[f"round_{side}_over_lifl"]
        if figure["median"] is not None and not figure["void"]:
            said.append(f"{_times(figure['median'])} as fast as {name}")
    if not said:
        return "LIFL side by side"
    whole = find(run, ROUND)
    of = f"{whole['clients']} × {whole['title']}" if whole else ROUND
    listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"A round of LIFL ({of}) is {listed}"


def _lead(run: Run) -> str:
    m = run["machine"]
    paced = f", TCP's congestion control {m['congestion']}" if "congestion" in m else ""
    return (
        f"One {'quick ' if run.get('quick') else ''}run of {run['seconds'] / 60:.0f} minutes on "
        f"{run.get('date', 'an unknown day')}: {m['cpu']}, {m['cores']} cores, "
        f"{m['memory_gb']:.0f} GB, Linux {m['kernel']}{paced}; clients are processes of the "
        "same machine. "
        f"Noise: {wording.noise(run)}."
    )


def _cards(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (number, what, spread, class) of the figures with a bar."""
    for key, what in (
        ("round_serverful_over_lifl", "as long: a whole round on an always-on gRPC server"),
        ("round_vanilla_over_lifl", "as long: a whole round on vanilla serverless"),
        ("round_nvflare_over_lifl", "as long: a whole round on NVFlare"),
        ("round_flower_over_lifl", "as long: a whole round on Flower"),
        ("handoff_vanilla_over_lifl", "as long: 233 MB handed over through sidecar and Redis"),
        ("handoff_cpu_vanilla_over_lifl", "the CPU for that hand-off"),
        ("tta_serverful_over_lifl", "as long to the accuracy: an always-on gRPC server"),
        ("cpu_vanilla_over_lifl", "the CPU to the accuracy: vanilla serverless"),
    ):
        f = summary[key]
        if f["median"] is None:
            continue
        small = f"[{f['min']:.1f} .. {f['max']:.1f}], n = {f['n']}"
        bar = f"bar {f['bar']}".replace(" ", NBSP)
        small += "; void, see Bars" if f["void"] else f"; {bar}"
        mark = "weak" if f["void"] else "below" if f["passed"] is False else ""
        yield _times(f["median"]), what, small, mark


def _times(value: float) -> str:
    return f"{value:.1f}×" if value < 10 else f"{value:.0f}×"


def _figure(plot: Plot) -> str:
    labelled = plot.svg.replace("<svg ", f'<svg role="img" aria-label="{_attr(plot.title)}" ', 1)
    return (
        f"<h2>{_text(plot.title)}</h2><figure>{labelled}"
        f"<figcaption>{_text(plot.caption)}</figcaption></figure>"
    )


def _section(table: Table) -> str:
    head = "".join(f"<th>{_text(c)}</th>" for c in table.columns)
    rows = []
    for i, row in enumerate(table.rows):
        mark = table.marks[i] if table.marks else ""
        cells = "".join(f"<td>{_text(c)}</td>" for c in row)
        rows.append(f'<tr class="{mark}">{cells}</tr>' if mark else f"<tr>{cells}</tr>")
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    return (
        f"<h2>{_text(table.title)}</h2>{note}"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _text(text: str) -> str:
    """Return text for HTML, with ``code`` and *italics* as Markdown has them."""
    safe = html.escape(text, quote=False)
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return re.sub(r"(?<!\w)\*([^*]+)\*(?!\w)", r"<i>\1</i>", safe)


def _attr(text: str) -> str:
    return html.escape(text)
