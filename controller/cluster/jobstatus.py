"""The status of a FederatedJob, from what the coordinator and the operator know.

Why: what `kubectl get` shows follows from a few facts and from what was shown before,
so that a restarted controller forgets no date and a silent coordinator wipes nothing
out. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controller.cluster.federatedjob import NOT_YET, OVER, Custom, Phase, Step, condition
from lifl.topology import Plan

_STATES = {
    "submitted": Phase.AWAITING_MODEL,
    "running": Phase.RUNNING,
    "done": Phase.COMPLETE,
    "stopped": Phase.STOPPED,
    "failed": Phase.FAILED,
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a job now.

    ``job`` is the coordinator's status of it, None if it did not answer; ``gone``: it has
    none of ours. ``accuracy`` is that of the last version that was rated, if any is newer
    than what was shown.
    """

    custom: Custom
    submitted: Step = NOT_YET
    model: Step = NOT_YET
    job: Mapping[str, Any] | None = None
    gone: bool = False
    accuracy: float | None = None
    plan: Plan | None = None


def status(previous: Mapping[str, Any], facts: Facts, now: str) -> dict[str, Any]:
    """Return the status to show, given the ``previous`` one; ``now`` is RFC 3339.

    Where nothing new is known the previous one is kept; dates of conditions change with
    their status only.
    """
    custom, job = facts.custom, facts.job
    made = dict(previous)
    made["observedGeneration"] = custom.generation
    phase = _phase(previous, facts)
    made["phase"] = str(phase)
    if facts.submitted.done:
        made["secretName"] = custom.secret_name
    if job is not None and "round" in job:
        made["round"] = f"{job['round']}/{job['rounds']}"
        goal = job["goal"] or custom.spec["clients"]["perRound"]
        made["updates"] = f"{job['accepted']}/{goal}"
        made["attempt"], made["version"] = job["attempt"], job["version"]
        made.setdefault("startTime", now)
    made |= _shape(previous, facts.plan, over=phase in OVER)
    if facts.accuracy is not None:
        made["accuracy"] = facts.accuracy
        made["accuracyPercent"] = f"{facts.accuracy:.2%}"
    if phase in OVER:
        made.setdefault("completionTime", now)
    else:
        made.pop("completionTime", None)
    made["conditions"] = [
        _dated(condition(previous, item["type"]), item, now)
        for item in _conditions(previous, facts, phase, made)
    ]
    return made


def _phase(previous: Mapping[str, Any], facts: Facts) -> Phase:
    before = previous.get("phase", Phase.PENDING)
    if facts.job is not None:
        return _STATES[facts.job["state"]]
    if before in OVER:
        return Phase(before)
    if facts.gone:
        return Phase.FAILED
    if not facts.submitted.done:
        return Phase.REFUSED if facts.submitted.final else Phase.PENDING
    return Phase.RUNNING if before == Phase.RUNNING else Phase.AWAITING_MODEL


def _shape(previous: Mapping[str, Any], plan: Plan | None, *, over: bool) -> dict[str, int]:
    """Return how the round is summed; between two plans as before."""
    if over or plan is None:
        shape = {k: previous.get(k, 0) for k in ("nodes", "aggregators", "levels")}
        return dict.fromkeys(shape, 0) if over else shape
    return {"nodes": len(plan.nodes), "aggregators": len(plan.roles), "levels": plan.levels}


def _conditions(
    previous: Mapping[str, Any], facts: Facts, phase: Phase, made: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    yield _submitted(facts)
    yield _model_received(facts, phase, begun="startTime" in made)
    over = phase in OVER
    if phase is Phase.RUNNING:
        yield _condition("Running", True, phase, "its rounds are going on")
    elif over:
        yield _condition("Running", False, phase, "the job is over")
    else:
        yield _condition("Running", False, "Waiting", "it has not begun yet")
    if phase is Phase.COMPLETE:
        yield _condition("Complete", True, phase, "all rounds are done")
    else:
        yield _condition("Complete", False, phase if over else "NotYet", "rounds are left")
    if phase is Phase.FAILED:
        yield _failed(previous, facts)
    else:
        yield _condition("Failed", False, phase if over else "NotFailed", "nothing is wrong")
    changed = _spec_changed(previous, facts)
    if changed is not None:
        yield changed


def _submitted(facts: Facts) -> dict[str, Any]:
    step = facts.submitted
    if step.done or facts.job is not None:
        return _condition("Submitted", True, "Submitted", "the coordinator has the job")
    return _condition("Submitted", False, step.reason, step.message)


def _model_received(facts: Facts, phase: Phase, *, begun: bool) -> dict[str, Any]:
    kind = "ModelReceived"
    if begun:
        return _condition(kind, True, kind, "the job has its initial model")
    if phase in OVER:
        return _condition(kind, False, "Over", "the job ended before it had a model")
    step = facts.model if facts.submitted.done or facts.job is not None else NOT_YET
    return _condition(kind, False, step.reason, step.message)


def _spec_changed(previous: Mapping[str, Any], facts: Facts) -> dict[str, Any] | None:
    """Only servers without CEL let a job be changed; then there is this condition."""
    before = condition(previous, "SpecChanged")
    if facts.job is None:
        return before
    if facts.job["spec"] != facts.custom.document:
        message = "the job goes on as it was submitted; delete it and make another"
        return _condition("SpecChanged", True, "Immutable", message)
    if before is None:
        return None
    return _condition("SpecChanged", False, "AsSubmitted", "the spec is what was submitted")


def _failed(previous: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    if facts.job is not None:
        detail = str(facts.job.get("detail") or "the coordinator gave it up")
        return _condition("Failed", True, "Failed", detail)
    before = condition(previous, "Failed")
    if before is not None and before["status"] == "True":
        return before
    message = "the coordinator has no such job any more: deleted there, or its state was lost"
    return _condition("Failed", True, "Gone", message)


def _condition(kind: str, value: bool, reason: str, message: str) -> dict[str, Any]:
    words = message[:1024] or str(reason)
    return {"type": kind, "status": str(value), "reason": str(reason), "message": words}


def _dated(before: Mapping[str, Any] | None, now: dict[str, Any], date: str) -> dict[str, Any]:
    kept = before is not None and before["status"] == now["status"]
    return now | {"lastTransitionTime": before["lastTransitionTime"] if kept and before else date}
