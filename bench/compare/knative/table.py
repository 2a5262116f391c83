"""A run's rounds as a table for people.

Why: ``rounds.json`` has every round; this has medians with their spread, failures included. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.compare import shapes
from bench.compare.knative.play import Played, Seen, Side
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
    "there. CPU is of all pods in the namespaces named, from one reading of the kubelets to the "
    "next around each round, so it holds what they spend idle in that time; *above idle* takes "
    "off what the same namespaces spent while nobody played. Clients and the harness are not in it."
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


def above_idle(played: Played, seen: Seen) -> float:
    """Return a round's CPU seconds less what the cluster spends in that time anyway."""
    rate = seen.idle.whole / seen.idle_seconds if seen.idle_seconds else 0.0
    return played.cpu.whole - rate * played.interval


def _row(side: Side, seen: Seen) -> list[str]:
    rounds = [p for p in side.rounds if p.index >= 0]
    if not rounds:
        return [side.title, f"failed: {_cell(side.failed)}", *[""] * (len(COLUMNS) - 2)]
    spaces = sorted({n for p in rounds for n in p.cpu.by_namespace})
    shares = [(n, _median([p.cpu.by_namespace.get(n, 0.0) for p in rounds])) for n in spaces]
    name = side.title + (f"; then failed: {_cell(side.failed)}" if side.failed else "")
    return [
        name,
        spread([p.round.wall for p in rounds]),
        spread([p.round.last_byte for p in rounds]),
        spread([float(p.round.created) for p in rounds]),
        spread([p.cpu.whole for p in rounds]),
        spread([above_idle(p, seen) for p in rounds]),
        spread([p.cpu.queue_proxy for p in rounds]),
        ", ".join(f"{n} {number(v)}" for n, v in shares),
    ]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:400]
