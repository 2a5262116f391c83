"""How a job looks from outside: to gateways and the controller, and to people.

Why: one place decides what leaves the coordinator, and what does not (the
job's key is for gateways only). It must not change anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from functions.coordinator.records import ClaimState, JobRecord, Phase
from functions.coordinator.runtime import Job
from lifl.topology import FAN_IN


def job_view(job: Job, upload: Mapping[str, str], public: Mapping[str, str]) -> dict[str, Any]:
    """Return what gateways and the controller are told.

    ``upload`` are gateway URLs by node, ``public`` those that clients must use instead.
    """
    with job.locked() as rounds:
        record, book = rounds.record, rounds.book
        accepted = [c.client for c in book.by_client.values() if c.state is ClaimState.SEALED]
        selected = None if record.selected is None else list(record.selected)
        everyone = record.selected is None and bool(record.goal)
        plan = record.plan
        return {
            "job": job.name,
            "domain_uid": job.record.domain_uid,
            "state": job.record.state,
            "round": record.round,
            "assignment": record.assignment,
            "version": rounds.version,
            "phase": record.phase,
            "schema": job.record.schema,
            "geometry": job.record.geometry,
            "fan_in": job.spec.fan_in or FAN_IN,  # controllers of before read nothing else
            "as_needed": job.spec.fan_in is None,
            "timing": job.spec.timing,
            "auth_key": job.record.auth_key,
            "selected": selected,
            "known": list(rounds.known) if everyone else [],
            "clients": {} if plan is None else plan["clients"],
            "accepted": accepted,
            "lost": rounds.lost(),
            "upload": dict(upload),
            "public": dict(public),
            "model": None if job.model is None else asdict(job.model),
            "deadline": record.deadline,
            "closing": record.phase in (Phase.CLOSING, Phase.COMMITTING),
            "plan": plan,
            "expected": record.goal,
            "update_type": job.spec.rules.update_type,
            "ratings": job.ratings,
            "client_config": dict(job.spec.client_config),
        }


def job_status(job: Job) -> dict[str, Any]:
    """Return what a person asks about: progress, not contents."""
    with job.locked() as rounds:
        record, book = rounds.record, rounds.book
        return {
            **job_head(job.record),
            "round": record.round,
            "rounds": job.spec.rules.rounds,
            "attempt": record.attempt,
            "assignment": record.assignment,
            "version": rounds.version,
            "kept": job.version.kept,
            "phase": record.phase,
            "goal": record.goal,
            "accepted": book.accepted,
            "uploading": sum(c.state is ClaimState.CLAIMED for c in book.by_client.values()),
            "lost": len(rounds.lost()),
            "known_clients": len(rounds.known),
            "opened": record.opened,
            "deadline": record.deadline,
            "geometry": job.record.geometry,
            "model_url": f"/v1/jobs/{job.name}/model?version={rounds.version}",
        }


def job_head(record: JobRecord) -> dict[str, Any]:
    """Return what is known of a job even before it has a model."""
    return {
        "job": record.name,
        "state": record.state,
        "detail": record.detail,
        "created": record.created,
        "owner": record.owner,
        "spec": record.spec,
    }
