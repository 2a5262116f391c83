"""The bars: a few ratios from one run, each with its spread, and whether it counts.

Why: what is claimed must be readable in one small file, under fixed keys, with the reason
where a figure is missing, void or below its bar. Pure: it reads what the runner kept (the object
in ``rounds.json``) and measures nothing.

A ratio is of pairs: a side's round over LIFL's round that was played just before or after it.
It is void if the side's path did not reach 0.8 of what is published for it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from bench.figures import Bar, at_least, at_most

ROUND = "burst-8x45mb"
TRAINED = "train-resnet18"
OURS = "lifl"

Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One ratio: its samples or why there are none, its bar, and why it is void, if it is.

    ``value`` is what is judged where that is not the samples' median; ``why`` is what a reader
    should know of a figure below its bar.
    """

    key: str
    what: str
    bar: Bar | None
    samples: Sequence[float] = ()
    missing: str = ""
    void: str = ""
    value: float | None = None
    why: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float | None:
        """Return what is judged; None without samples."""
        if not self.samples:
            return None
        return statistics.median(self.samples) if self.value is None else self.value

    @property
    def passed(self) -> bool | None:
        """Return whether the bar holds; None where it cannot be judged."""
        if self.median is None or self.bar is None or self.void:
            return None
        return self.bar.holds(self.median)

    def to_json(self) -> dict[str, Any]:
        """Return what stands under the figure's key in ``summary.json``."""
        return {
            "what": self.what,
            "median": self.median,
            "min": min(self.samples, default=None),
            "max": max(self.samples, default=None),
            "n": len(self.samples),
            "bar": None if self.bar is None else str(self.bar),
            "passed": self.passed,
            "void": bool(self.void),
            "reason": self.void or self.missing or self.why,
            **self.notes,
        }


def counting(side: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a side's rounds that are no warm-up, of ``rounds.json``."""
    return [r for r in side["rounds"] if r["index"] >= 0]


def cpu(played: Mapping[str, Any]) -> float:
    """Return a round's CPU seconds: those a side counted itself from release to model, if it did.

    Peers send the model to their clients within the call that plays a round, which is no part
    of anybody's round.
    """
    return float(played["marks"].get("cpu", played["cpu"]))


def wall(played: Mapping[str, Any]) -> float:
    """Return a round's seconds."""
    return float(played["wall"])


def find(run: Run, workload: str) -> Mapping[str, Any] | None:
    """Return a workload of a run by name; None if it was not run."""
    return next((w for w in run.get("workloads", ()) if w["name"] == workload), None)


def figures(run: Run) -> list[Figure]:
    """Return all figures in the order of the issue's table, those without a bar last."""
    return [*_handoffs(run), *_rounds(run), *_training(run), _simulated(run), *_unjudged(run)]


def build(run: Run) -> dict[str, Any]:
    """Return what ``summary.json`` holds."""
    return {f.key: f.to_json() for f in figures(run)}


def handoffs(
    seconds: Mapping[str, tuple[Sequence[float], Sequence[float], str]],
    references: Sequence[Mapping[str, Any]],
    **about: Any,
) -> dict[str, Any]:
    """Return what stands under ``handoff`` in ``rounds.json``.

    ``seconds`` are by key those of a way by value and LIFL's, hand-off by hand-off, and the
    way's path, which ``references`` may have.
    """
    found: dict[str, Any] = {"references": list(references), **about}
    for key, (theirs, ours, path) in seconds.items():
        low = [r for r in references if r["path"] == path and not r["holds"]]
        found[key] = {
            "samples": [a / b for a, b in zip(theirs, ours, strict=True)],
            "void": _slow("the way by value", low),
            "theirs": statistics.median(theirs),
            OURS: statistics.median(ours),
        }
    return found


def _handoffs(run: Run, of: str = "", how: str = "") -> Iterator[Figure]:
    given = run.get("handoff", {})
    for key, what, limit in (
        ("handoff_vanilla_over_lifl", "one 233 MB partial: vanilla with Redis over LIFL, time", 12),
        ("handoff_cpu_vanilla_over_lifl", "the same, CPU", 12),
        ("handoff_direct_over_lifl", "plain HTTP through one sidecar over LIFL, time", 5),
    ):
        found = given.get(key + of)
        figure = Figure(key + of, what + how, at_least(limit))
        if found is None:
            why = run.get("lost", {}).get("handoff", "the hand-off was not run")
            yield replace(figure, missing=why)
            continue
        notes = {k: v for k, v in found.items() if k not in ("samples", "void")}
        yield replace(figure, samples=found["samples"], void=found.get("void", ""), notes=notes)


def _rounds(run: Run) -> Iterator[Figure]:
    for key, side, of, limit in (
        ("round_flower_over_lifl", "flower", wall, 30),
        ("round_nvflare_over_lifl", "nvflare", wall, 6),
        ("round_cpu_nvflare_over_lifl", "nvflare", cpu, 4),
        ("round_serverful_over_lifl", "serverful", wall, 2),
        ("round_vanilla_over_lifl", "vanilla", wall, 4),
    ):
        measure = "CPU" if of is cpu else "time"
        what = f"whole round, 8 × 45 MB: {side} over LIFL, {measure}"
        yield _ratio(run, Wanted(key, what, ROUND, side, of, at_least(limit)))


def _training(run: Run) -> Iterator[Figure]:
    for key, side, of, limit in (
        ("tta_serverful_over_lifl", "serverful", wall, 1.6),
        ("tta_vanilla_over_lifl", "vanilla", wall, 2.7),
        ("cpu_serverful_over_lifl", "serverful", cpu, 1.8),
        ("cpu_vanilla_over_lifl", "vanilla", cpu, 5.7),
    ):
        what = f"{'CPU' if of is cpu else 'time'} to accuracy, ResNet-18, varying load: {side}"
        wanted = Wanted(key, f"{what} over LIFL", TRAINED, side, of, at_least(limit))
        yield _total(run, wanted)


def _unjudged(run: Run) -> Iterator[Figure]:
    for figure in _handoffs(run, "_two_passes", ", its producer adding the last input itself"):
        yield replace(figure, bar=None)
    for key, side in (
        ("round_vanilla_warm_over_lifl", "vanilla-warm"),
        ("round_flower_inprocess_over_lifl", "flower-inprocess"),
    ):
        what = f"whole round, 8 × 45 MB: {side} over LIFL, time"
        yield _ratio(run, Wanted(key, what, ROUND, side, wall, None))
    for side in ("serverful", "vanilla"):
        for name, of in (("tta", wall), ("cpu", cpu)):
            what = f"{'CPU' if of is cpu else 'time'} to accuracy, small CNN of 0.15 MB: {side}"
            key = f"{name}_digits_{side}_over_lifl"
            wanted = Wanted(key, f"{what} over LIFL", "train-digits", side, of, None)
            yield _total(run, wanted)


def _simulated(run: Run) -> Figure:
    key, what = "sim_error", "simulated against measured time of a round, relative error"
    given = run.get("sim", {})
    if not given.get("samples"):
        why = run.get("lost", {}).get("sim", "the simulation was not validated")
        return Figure(key, what, at_most(0.15), missing=why)
    return Figure(key, what, at_most(0.15), given["samples"])


class Wanted(NamedTuple):
    """A ratio over LIFL in one workload: ``of`` gives a round's seconds."""

    key: str
    what: str
    workload: str
    side: str
    of: Callable[[Mapping[str, Any]], float]
    bar: Bar | None


def _ratio(run: Run, wanted: Wanted) -> Figure:
    key, what, workload, side, of, bar = wanted
    pairs, missing = _pairs(run, workload, side)
    if missing:
        return Figure(key, what, bar, missing=missing)
    theirs, ours = [of(a) for a, _ in pairs], [of(b) for _, b in pairs]
    return Figure(
        key,
        what,
        bar,
        [a / b for a, b in zip(theirs, ours, strict=True)],
        void=void(run, workload, side),
        notes={side: statistics.median(theirs), OURS: statistics.median(ours)},
    )


def _total(run: Run, wanted: Wanted) -> Figure:
    """Return the ratio of sums over all rounds of a training; its samples are the rounds'."""
    key, what, workload, side, of, bar = wanted
    pairs, missing = _pairs(run, workload, side)
    if missing:
        return Figure(key, what, bar, missing=missing)
    theirs, ours = sum(of(a) for a, _ in pairs), sum(of(b) for _, b in pairs)
    return Figure(
        key,
        what,
        bar,
        [of(a) / of(b) for a, b in pairs],
        void=void(run, workload, side),
        value=theirs / ours,
        why=_waiting(run, workload, ours) if of is wall else "",
        notes={side: theirs, OURS: ours, "spread": "of the rounds' own ratios"},
    )


def _waiting(run: Run, workload: str, ours: float) -> str:
    """Return how much of LIFL's time is the clients' own, which no side can shorten."""
    found = find(run, workload)
    if found is None or not found["sizes"]:
        return ""
    clients = sum(found["arrivals"][size - 1] for size in found["sizes"])
    return (
        f"of LIFL's {ours:.1f} s, {clients:.1f} s are until the last client has trained, "
        "which are every side's"
    )


def _pairs(
    run: Run, workload: str, side: str
) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], str]:
    """Return a side's rounds with LIFL's; or why there are none."""
    found = find(run, workload)
    if found is None:
        why = run.get("lost", {}).get(workload, "it is not part of this run")
        return [], f"{workload} was not run: {why}"
    for name in (side, OURS):
        given = found["sides"].get(name)
        if given is None:
            return [], f"{name} was not asked for"
        if given["not_run"]:
            return [], f"{name} was not run: {given['not_run']}"
        if given["failed"]:
            return [], f"{name} could not be measured: {given['failed']}"
    pairs = list(zip(*(counting(found["sides"][n]) for n in (side, OURS)), strict=False))
    return pairs, "" if pairs else f"{workload} has no rounds"


def void(run: Run, workload: str, side: str) -> str:
    """Return why a ratio over a side does not count; nothing if it does.

    A side may have been measured against what is published in another workload of the run.
    """
    there = [w["sides"].get(side, {}) for w in run.get("workloads", ())]
    here = find(run, workload)
    own = (here or {"sides": {}})["sides"].get(side, {}).get("references", ())
    references = own or [r for s in there for r in s.get("references", ())]
    return _slow(side, [r for r in references if not r["holds"]])


def _slow(who: str, low: Sequence[Mapping[str, Any]]) -> str:
    if not low:
        return ""
    worst = min(low, key=lambda r: r["measured"] / r["published"])
    return (
        f"{who} reached {worst['measured']:.0f} MB/s on {worst['path']}, of "
        f"{worst['published']:.0f} that are published; 0.8 of it are needed"
    )
