"""Jobs as people manage them; gateways pass these requests on.

Why: submit, watch, stop and score are the public half of the coordinator. It
must not know nodes, claims or plans.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from functions.coordinator.access import Access
from functions.coordinator.problems import Refused
from functions.coordinator.records import JobState
from functions.coordinator.requests import Body, measured
from functions.coordinator.service import Coordinator

MAX_OWNER = 253


def blueprint(coordinator: Coordinator, access: Access) -> Blueprint:
    """Return the routes below ``/v1/jobs``."""
    api = Blueprint("jobs", __name__, url_prefix="/v1/jobs")

    def check_submitter(job: str) -> None:
        access.submitter(request, job, coordinator.jobs.record(job).auth_key)

    @api.post("")
    def submit() -> ResponseReturnValue:
        access.platform(request)
        body = Body(request)
        owner = body.get("owner", str, None) or ""
        if len(owner) > MAX_OWNER:
            raise Refused(422, "bad-member", f"owner is longer than {MAX_OWNER}", where="owner")
        record, new = coordinator.jobs.submit(body.get("spec", dict), owner)
        answer = {
            "job": record.name,
            "state": record.state,
            "auth_key": record.auth_key,
            "model_url": f"/v1/jobs/{record.name}/model",
        }
        return jsonify(answer), 201 if new else 200, {"Location": f"/v1/jobs/{record.name}"}

    @api.get("")
    def list_jobs() -> Response:
        access.platform(request)
        return jsonify(jobs=coordinator.jobs.statuses())

    @api.get("/<job>")
    def show(job: str) -> Response:
        check_submitter(job)
        return jsonify(coordinator.jobs.status(job))

    @api.put("/<job>/model")
    def put_model(job: str) -> ResponseReturnValue:
        check_submitter(job)
        with measured(request, coordinator.settings.max_model_bytes) as (length, read):
            record = coordinator.jobs.receive_model(job, length, read)
        return jsonify(job=record.name, state=record.state, version=0), 201

    @api.post("/<job>/stop")
    def stop(job: str) -> Response:
        check_submitter(job)
        record = coordinator.jobs.stop(job)
        return jsonify(job=record.name, state=record.state)

    @api.delete("/<job>")
    def delete(job: str) -> Response:
        check_submitter(job)
        coordinator.jobs.delete(job, request.args.get("owner", ""))
        return jsonify(job=job, state=JobState.DELETED)

    @api.get("/<job>/history")
    def history(job: str) -> Response:
        check_submitter(job)
        after = request.args.get("after", "-1")
        if not after.removeprefix("-").isdecimal():
            raise Refused(422, "bad-query", "after is a version number", where="after")
        rounds = [summary.to_json() for summary in coordinator.jobs.history(job, int(after))]
        return jsonify(job=job, rounds=rounds)

    @api.post("/<job>/evaluations")
    def evaluate(job: str) -> ResponseReturnValue:
        check_submitter(job)
        body = Body(request)
        scores = {name: body.get(name, float, None) for name in ("accuracy", "loss")}
        version = body.get("version", int)
        coordinator.jobs.evaluate(job, version, scores)
        return jsonify(job=job, version=version, **scores), 201

    return api
