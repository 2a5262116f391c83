"""What there is to tell when a FederatedJob's status changes: its events.

Why: events are for what a person would want to know later, so not for every round; they
follow from two statuses alone, so that a restarted controller tells nothing twice. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from controller.cluster.federatedjob import NOT_YET, SENDING, Phase, condition

Status = Mapping[str, Any]
_QUIET = frozenset({NOT_YET.reason, SENDING.reason, "Over"})
"""Reasons for a step not being done that nobody has to be told."""
_SHAPE = ("nodes", "aggregators", "levels")


class Note(NamedTuple):
    """An event to leave at the job."""

    reason: str
    message: str
    warning: bool = False


def notes(before: Status, now: Status) -> list[Note]:
    """Return what there is to tell when the status ``now`` follows ``before``."""
    return [*_steps(before, now), *_rounds(before, now), *_ends(before, now)]


def _steps(before: Status, now: Status) -> Iterator[Note]:
    """Tell that a step was done, or the reason why not when that changes."""
    for kind in ("Submitted", "ModelReceived"):
        old, new = condition(before, kind), condition(now, kind)
        if new is None:
            continue
        done = new["status"] == "True"
        if _told(old) == _told(new) or (not done and new["reason"] in _QUIET):
            continue
        yield Note(new["reason"], new["message"], not done and new["reason"] != "AwaitingModel")


def _told(found: Mapping[str, Any] | None) -> tuple[str, str] | None:
    return None if found is None else (found["status"], found["reason"])


def _rounds(before: Status, now: Status) -> Iterator[Note]:
    shape = [now.get(k, 0) for k in _SHAPE]
    if all(shape) and shape != [before.get(k, 0) for k in _SHAPE]:
        goal = str(now.get("updates", "")).rpartition("/")[2]
        nodes, aggregators, levels = shape
        yield Note(
            "Planned",
            f"{goal} updates on {_count(nodes, 'node')}, {_count(aggregators, 'aggregator')}, "
            f"{_count(levels, 'level')}",
        )
    if now.get("version") and not before.get("version"):
        yield Note("FirstVersion", "the first round is done: there is a new model")
    attempt = now.get("attempt", 1)
    if attempt > 1 and (_round(now), attempt) != (_round(before), before.get("attempt", 1)):
        yield Note("RoundRetried", f"round {_round(now)} is tried again: attempt {attempt}", True)


def _ends(before: Status, now: Status) -> Iterator[Note]:
    for kind in ("Complete", "Failed", "SpecChanged"):
        old, new = condition(before, kind), condition(now, kind)
        if new is None or new["status"] != "True" or (old and old["status"] == "True"):
            continue
        if kind == "Complete":
            accuracy = now.get("accuracyPercent")
            end = f", accuracy {accuracy}" if accuracy else ""
            yield Note("Complete", f"{_round(now)} rounds are done{end}")
        else:
            yield Note(new["reason"], new["message"], True)
    phase = now.get("phase")
    if phase == Phase.STOPPED and before.get("phase") != phase:
        where = f" in round {_round(now)}" if _round(now) else ""
        yield Note("Stopped", f"the job was stopped{where}")


def _round(status: Status) -> str:
    return str(status.get("round", "")).partition("/")[0]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
