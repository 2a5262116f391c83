"""A run's rounds as a table for people.

Why: ``rounds.json`` has every round; this has medians with their spread, failures included. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bench.compare import shapes
from bench.compare.knative.play import Block, Seen, Side
from bench.compare.report.tables import number, spread

COLUMNS = (
    "side",
    "round, s",
    "last byte sent, s",
    "pods made",
    "CPU, s a round",
    "above idle",
    "in queue-proxy",
    "by namespace",
)
NOTE = (
    "Medians [least .. most]. A round lasts from the first client's start until the new model is "
    "there. CPU is of all pods in the namespaces named, over a block of rounds in a row, from one "
    "reading of the kubelets to the next, so it holds what they spend idle in that time; *above "
    "idle* takes off what the same namespaces spent while nobody played. Clients and the harness "
    "are not in it."
)


def render(about: Mapping[str, object], runs: Sequence[Seen]) -> str:
    """Return the whole page as Markdown."""
    lines = ["# Vanilla Knative on a cluster", "", NOTE, ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    for seen in runs:
        load = seen.load
        lines += ["", f"## {load.clients} clients, {shapes.title(load.model)}", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        lines += ["| " + " | ".join(_row(side, seen)) + " |" for side in seen.sides.values()]
        for side in seen.sides.values():
            lines += ["", f"{side.title} is not all there would be:"]
            lines += [f"- {each}" for each in side.stand_ins]
    return "\n".join(lines) + "\n"


def above_idle(block: Block, seen: Seen) -> float:
    """Return CPU seconds a round, less what the cluster spends in that time anyway."""
    assert block.cpu is not None
    rate = seen.idle.whole / seen.idle_seconds if seen.idle_seconds else 0.0
    return (block.cpu.whole - rate * block.interval) / len(block.rounds)


def _row(side: Side, seen: Seen) -> list[str]:
    rounds = side.rounds()
    if not rounds:
        return [side.title, f"failed: {_cell(side.failed)}", *[""] * (len(COLUMNS) - 2)]
    blocks = [(b, b.cpu, len(b.rounds)) for b in side.blocks if b.cpu is not None]
    spaces = sorted({n for _, cpu, _ in blocks for n in cpu.by_namespace})
    shares = [
        (s, _median([cpu.by_namespace.get(s, 0) / n for _, cpu, n in blocks])) for s in spaces
    ]
    name = side.title + (f"; then failed: {_cell(side.failed)}" if side.failed else "")
    return [
        name,
        spread([r.wall for r in rounds]),
        spread([r.last_byte for r in rounds]),
        spread([float(r.created) for r in rounds]),
        spread([cpu.whole / n for _, cpu, n in blocks]),
        spread([above_idle(b, seen) for b, _, _ in blocks]),
        spread([cpu.queue_proxy / n for _, cpu, n in blocks]),
        ", ".join(f"{n} {number(v)}" for n, v in shares),
    ]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:400]
