"""What gateways and the controller ask and tell; never on the public ingress.

Why: claims are on the way of every upload, so these handlers do little more
than read, ask the job and answer. It must not decide anything.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request, send_file
from flask.typing import ResponseReturnValue

from functions.coordinator.access import Access
from functions.coordinator.checkpoint import Checkpoints
from functions.coordinator.outcomes import Tell
from functions.coordinator.problems import Refused
from functions.coordinator.records import Transfer
from functions.coordinator.requests import Body
from functions.coordinator.service import Coordinator
from functions.coordinator.updates import ClaimRequest, Place
from lifl.errors import ConfigError, Unavailable
from lifl.naming import (
    HEADER_CLAIM,
    HEADER_MODEL_VERSION,
    MEDIA_SAFETENSORS,
    check_client,
    check_node,
)
from lifl.settings import base_url
from lifl.topology import Plan

MAX_SAMPLES = 1 << 40
"""Beyond it sums of weights would lose whole samples; no client has so many."""


def blueprint(coordinator: Coordinator, access: Access) -> Blueprint:
    """Return the routes below ``/internal/v1``."""
    api = Blueprint("internal", __name__, url_prefix="/internal/v1")
    api.before_request(lambda: access.internal(request))
    _watching(api, coordinator)
    _claims(api, coordinator)
    _transfers(api, coordinator)
    _nodes(api, coordinator)
    return api


def _watching(api: Blueprint, coordinator: Coordinator) -> None:
    @api.get("/watch")
    def watch() -> Response:
        try:
            since = int(request.args.get("since", "0"))
            wait = float(request.args.get("wait", "0"))
        except ValueError:
            raise Refused(422, "bad-query", "since and wait are numbers", where="query") from None
        revisions = coordinator.revisions
        revisions.wait(since, max(0.0, min(wait, coordinator.settings.watch_cap)))
        return Response(revisions.answer(), mimetype="application/json")

    @api.put("/jobs/<job>/plan")
    def plan(job: str) -> Response:
        body = Body(request)
        try:
            parsed = Plan.from_json(body.get("plan", dict))
        except (KeyError, TypeError, ValueError) as e:
            raise ConfigError(f"not a plan: {e!r}") from e
        if parsed.job != job:
            raise Refused(422, "wrong-job", f"the plan is for job {parsed.job}", where="plan.job")
        coordinator.planned(job, body.get("round", int), parsed.to_json())
        return jsonify(ok=True)

    @api.delete("/jobs/<job>")
    def given_up(job: str) -> Response:
        """No node has a deleted job's pool any more: its name may be used again."""
        return jsonify(ok=True, known=coordinator.jobs.given_up(job))

    @api.get("/jobs/<job>/model")
    def model(job: str) -> Response:
        """Send the present version from its checkpoint, for gateways without the job's pool."""
        version = coordinator.jobs.get(job).version
        if not version.kept:
            raise Unavailable(f"version {version.version} is on its way to the disk")
        checkpoints = Checkpoints(coordinator.settings.checkpoints, job)
        answer = send_file(
            checkpoints.path(version.model_file).resolve(),
            mimetype=MEDIA_SAFETENSORS,
            etag=f"{job}-{version.version}",
            conditional=True,
        )
        answer.headers[HEADER_MODEL_VERSION] = str(version.version)
        return answer


def _claims(api: Blueprint, coordinator: Coordinator) -> None:
    @api.post("/claims")
    def claim() -> ResponseReturnValue:
        body = Body(request)
        ask = _ask(body)
        coordinator.heard(ask.node)
        claim, duplicate = coordinator.jobs.get(body.get("job", str)).claim(ask)
        answer = {"claim": claim.serial, "assignment": claim.assignment}
        if not duplicate:
            return answer, 201
        return {**answer, "duplicate": True, "state": claim.state, "digest": claim.digest}, 200

    @api.post("/updates")
    def update() -> Response:
        """Claim and count in one; 204 if it counts, 200 if the client's update is here already."""
        body = Body(request)
        ask = _ask(body)
        coordinator.heard(ask.node)
        counted = coordinator.jobs.get(body.get("job", str)).count(
            ask,
            body.get("assignment", int),
            _place(body),
            body.get("digest", str),
            body.get("boot", str, None),
        )
        claim = counted.claim
        if counted.duplicate:
            told = {"claim": claim.serial, "state": claim.state, "digest": claim.digest}
            return jsonify(duplicate=True, **told)
        return _counted(claim.serial, counted.tell)

    @api.post("/claims/<int:serial>/sealed")
    def sealed(serial: int) -> ResponseReturnValue:
        body = Body(request)
        place = _place(body)
        coordinator.heard(place.node)
        tell = coordinator.jobs.get(body.get("job", str)).sealed(
            serial, place, body.get("digest", str, None), body.get("boot", str, None)
        )
        return _counted(serial, tell)

    @api.delete("/claims/<int:serial>")
    def abort(serial: int) -> ResponseReturnValue:
        coordinator.jobs.get(request.args.get("job", "")).aborted(serial)
        return {"ok": True}, 200


def _transfers(api: Blueprint, coordinator: Coordinator) -> None:
    @api.post("/transfers")
    def transfer() -> ResponseReturnValue:
        body = Body(request)
        ask = Transfer(
            serial=body.get("serial", int),
            assignment=body.get("assignment", int),
            source=body.get("from", str),
            target=body.get("to", str),
            cover=body.serials("cover"),
            weight=body.get("weight", float),
        )
        coordinator.heard(ask.source)
        if coordinator.jobs.get(body.get("job", str)).transfer(ask):
            return {"ok": True, "duplicate": True, "state": "sealed"}, 200
        return {"ok": True}, 201

    @api.post("/transfers/<int:serial>/sealed")
    def transferred(serial: int) -> ResponseReturnValue:
        body = Body(request)
        job = coordinator.jobs.get(body.get("job", str))
        boot, place = body.get("boot", str, None), _place(body)
        coordinator.heard(place.node)
        job.transferred(body.get("assignment", int), serial, place, boot)
        return {"ok": True}, 200


def _nodes(api: Blueprint, coordinator: Coordinator) -> None:
    @api.post("/nodes/<node>")
    def heartbeat(node: str) -> ResponseReturnValue:
        body = Body(request)
        clients = body.get("clients", dict, None) or {}
        met = {job: _clients(names) for job, names in clients.items()}
        url = body.get("gateway_url", str).rstrip("/")
        info = body.get("agent", dict, None) or {}
        public = _url(body.get("public_url", str, None) or "", "public_url")
        coordinator.heartbeat(check_node(node, "node"), url, info, met, public)
        return {"ok": True}, 200

    @api.put("/nodes/<node>/public")
    def publish(node: str) -> ResponseReturnValue:
        coordinator.publish(check_node(node, "node"), _url(Body(request).get("url", str), "url"))
        return {"ok": True}, 200

    @api.delete("/nodes/<node>")
    def remove(node: str) -> ResponseReturnValue:
        return {"ok": True, "known": coordinator.remove_node(node)}, 200

    @api.post("/nodes/<node>/inventory")
    def inventory(node: str) -> ResponseReturnValue:
        body = Body(request)
        job = coordinator.jobs.get(body.get("job", str))
        unknown = job.inventory(node, body.serials("serials"), body.get("boot", str, None))
        return {"ok": True, "unknown": unknown}, 200

    @api.post("/jobs/<job>/clients")
    def learn(job: str) -> ResponseReturnValue:
        coordinator.jobs.record(job)
        coordinator.learn(job, _clients(Body(request).names("clients")))
        return {"ok": True}, 200


def _counted(serial: int, tell: Tell) -> Response:
    """Return that an update counts; without a body it goes out in one packet."""
    answer = Response(status=204, headers={HEADER_CLAIM: str(serial)})
    answer.call_on_close(tell)
    return answer


def _ask(body: Body) -> ClaimRequest:
    samples = body.get("num_samples", int)
    if not 1 <= samples <= MAX_SAMPLES:
        raise Refused(
            422, "bad-member", f"num_samples is not 1 to {MAX_SAMPLES}", where="num_samples"
        )
    return ClaimRequest(
        round=body.get("round", int),
        client=check_client(body.get("client", str)),
        node=check_node(body.get("node", str), "node"),
        num_samples=samples,
        nbytes=body.get("nbytes", int),
        update_type=body.get("update_type", str, None),
        base_version=body.get("base_version", int, None),
        metrics=body.get("metrics", dict, None),
    )


def _place(body: Body) -> Place:
    return Place(body.get("node", str), body.get("slot", int), body.get("generation", int))


def _url(raw: str, where: str) -> str:
    try:
        return base_url(raw) if raw else ""
    except ValueError as e:
        raise Refused(422, "bad-member", f"{where!r} is not usable: {e}", where=where) from None


def _clients(names: list[str]) -> list[str]:
    return [check_client(str(name)) for name in names]
