"""The gateway's HTTP surface; ``openapi.yaml`` beside this file describes it.

Why: routes, authentication and error documents in one place; each route says
who may call it and hands on. It must not hold state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

from flask import Flask, Response, jsonify, request
from flask.typing import ResponseReturnValue

from functions.gateway.access import Access
from functions.gateway.body import RequestBody
from functions.gateway.gateway import Gateway
from functions.gateway.model import ModelBody, byte_range
from functions.gateway.polls import answer, due, patience, published
from functions.gateway.problems import Refused
from functions.gateway.transfers import TransferHead
from functions.gateway.upload import read_head
from functions.gateway.views import JobView
from lifl.client.http import raise_for_status
from lifl.errors import ConfigError
from lifl.naming import (
    HEADER_CLIENT,
    HEADER_MODEL_VERSION,
    MEDIA_SAFETENSORS,
    check_client,
)

log = logging.getLogger("lifl.gateway")

BODY = "lifl.body"  # environ: the request's RequestBody
YIELD = "lifl.yield"  # environ: a context in which a poll lets other requests run
PROXY_PIECE = 256 << 10
EXPECT_SECONDS = 5.0
MAX_NUMBER = 1 << 32
_FORWARDED = ("Authorization", "Content-Type", "Content-Digest", "Accept", "Idempotency-Key")


def create_app(gateway: Gateway) -> Flask:
    """Return the flask app of one gateway."""
    app = Flask("lifl.gateway", static_folder=None)
    app.extensions["lifl"] = gateway
    web = _Web(gateway)
    app.register_error_handler(Exception, web.failed)
    job = "/v1/jobs/<job>"
    for rule, methods, view in (
        ("/healthz", ["GET"], web.healthz),
        ("/_/health", ["GET"], web.healthz),  # where OpenFaaS probes
        ("/readyz", ["GET"], web.readyz),
        ("/metrics", ["GET"], web.metrics),
        (f"{job}/rounds/current", ["GET"], web.current),
        (f"{job}/rounds/<number>/updates", ["POST"], web.update),
        (f"{job}/model", ["GET"], web.model),
        ("/internal/v1/transfers/<job>/<assignment>/<serial>", ["PUT"], web.transfer),
        ("/v1/jobs", ["GET", "POST"], web.proxy),
        (job, ["GET"], web.proxy),
        (job, ["DELETE"], web.proxy),
        (f"{job}/model", ["PUT"], web.put_model),
        (f"{job}/stop", ["POST"], web.proxy),
        (f"{job}/history", ["GET"], web.proxy),
        (f"{job}/evaluations", ["POST"], web.proxy),
    ):
        endpoint = f"{methods[0]} {rule}"
        app.add_url_rule(rule, endpoint, view, methods=methods, provide_automatic_options=False)
    return app


class _Web:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        function = gateway.settings.function
        self._access = Access(function.platform_secret, on=function.auth)

    def failed(self, error: Exception) -> ResponseReturnValue:
        """Turn any error into a problem document."""
        problem = self._gateway.problem(error)
        if problem.status == 500 and problem.code == "internal-error":
            log.error("%s %s failed", request.method, request.path, exc_info=error)
        response = Response(problem.document(request.path), problem.status)
        for name, value in problem.headers():
            response.headers[name] = value
        return response

    # -- probes ---------------------------------------------------------------

    def healthz(self) -> ResponseReturnValue:
        return jsonify(status="ok", node=self._gateway.node)

    def readyz(self) -> ResponseReturnValue:
        missing = self._gateway.missing()
        if missing:
            raise Refused(503, "not-ready", f"waiting for {missing}", retry_after=1.0)
        return jsonify(status="ready", node=self._gateway.node)

    def metrics(self) -> ResponseReturnValue:
        return Response(self._gateway.metrics.scrape(), content_type="text/plain; version=0.0.4")

    # -- clients --------------------------------------------------------------

    def current(self, job: str) -> ResponseReturnValue:
        gateway = self._gateway
        view = self._view(job)
        try:
            client = check_client(request.args.get("client", ""))
        except ConfigError as e:
            raise Refused(422, "client-name", str(e), where="client") from None
        self._access.client(request, view, client)
        after = None if "after" not in request.args else _number(request.args["after"], "after")
        seconds = patience(_seconds(request.args.get("wait")), gateway.settings.poll_cap)
        gateway.watch.met(job, client)
        if not due(view, client, after) and seconds:
            with request.environ[YIELD]():  # lets others run first: there may be news already
                view = self._parked(job, lambda v: due(v, client, after), seconds)
        url = gateway.settings.public_url or gateway.settings.url
        told = answer(view, client, node=gateway.node, url=url, now=time.time())
        response = jsonify(told)
        response.headers["Cache-Control"] = "no-store"
        return response

    def update(self, job: str, number: str) -> ResponseReturnValue:
        gateway, metrics = self._gateway, self._gateway.metrics
        began = time.monotonic()
        body: RequestBody = request.environ[BODY]
        result = "error"
        try:
            view = self._view(job)
            self._access.client(request, view, request.headers.get(HEADER_CLIENT, ""))
            round_number = _number(number, "round")
            head = read_head(request.headers)
            with metrics.in_flight.track_inprogress():
                receipt = gateway.ingest.take(view, round_number, head, body)
            result = "duplicate" if receipt.duplicate else "accepted"
            if not receipt.duplicate:
                metrics.seconds.observe(time.monotonic() - began)
        except Exception as e:
            result = gateway.problem(e).code
            raise
        finally:
            metrics.uploads.labels(result).inc()
            metrics.bytes.inc(body.received)
        answered = {
            "job": job,
            "round": round_number,
            "client": head.client,
            "serial": receipt.serial,
            "duplicate": receipt.duplicate,
        }
        return jsonify(answered), 202

    def model(self, job: str) -> ResponseReturnValue:
        view = self._view(job)
        self._access.reader(request, view)
        if "version" in request.args:
            asked = _number(request.args["version"], "version")
            seconds = patience(
                _seconds(request.args.get("wait", "0")), self._gateway.settings.poll_cap
            )
            view = self._parked(job, lambda v: published(v, asked), seconds)
            if asked != view.version:
                raise _other_version(asked, view.version)
        version = view.version
        etag = f"{job}-{version}"
        headers = {
            HEADER_MODEL_VERSION: str(version),
            "Accept-Ranges": "bytes",
            "Cache-Control": "no-cache",
        }
        response = Response(headers=headers, content_type=MEDIA_SAFETENSORS)
        response.set_etag(etag)
        if request.if_none_match.contains_weak(etag):
            response.status_code = 304
            del response.headers["Content-Type"]
            return response
        if view.over and self._gateway.attachments.find(job) is None:
            return self._last_model(view, response)
        copy = self._gateway.models.get(view)
        if_range = request.headers.get("If-Range")
        field = request.headers.get("Range") if if_range in (None, f'"{etag}"') else None
        part = byte_range(field, copy.nbytes)
        start, length = part or (0, copy.nbytes)
        if part is not None:
            response.status_code = 206
            response.headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{copy.nbytes}"
        response.headers["Content-Length"] = str(length)
        if request.method != "HEAD":
            response.direct_passthrough = True
            response.response = ModelBody(copy, start, length)  # type: ignore[assignment]
        return response

    def _last_model(self, view: JobView, response: Response) -> Response:
        """Relay the model of a job that is over, and has no pool any more, from its checkpoint."""
        path = f"/internal/v1/jobs/{quote(view.job)}/model"
        told = self._gateway.coordinator.request(request.method, path, stream=True)
        raise_for_status(told)
        response.headers["Content-Length"] = told.headers["Content-Length"]
        del response.headers["Accept-Ranges"]
        response.response = told.stream(PROXY_PIECE)
        response.call_on_close(told.close)
        return response

    # -- other nodes ----------------------------------------------------------

    def transfer(self, job: str, assignment: str, serial: str) -> ResponseReturnValue:
        self._access.platform(request)
        view = self._view(job)
        head = TransferHead.read(request.headers)
        number = _number(assignment, "assignment")
        body: RequestBody = request.environ[BODY]
        self._gateway.transfers.take(view, number, _number(serial, "serial", 1 << 64), head, body)
        self._gateway.metrics.transfers.inc()
        return jsonify(ok=True)

    def put_model(self, job: str) -> ResponseReturnValue:
        """Hand a job's initial model on; answered when clients find the job here."""
        response = self.proxy()
        if response.status_code < 300:
            self._gateway.watch.expect(job, EXPECT_SECONDS)
        return response

    def proxy(self, **_: str) -> Response:
        """Hand a management request to the coordinator, which decides who may make it."""
        body: RequestBody = request.environ[BODY]
        headers = {k: request.headers[k] for k in _FORWARDED if k in request.headers}
        if body.length is not None:
            headers["Content-Length"] = str(body.length)
        path = quote(request.path)
        if request.query_string:
            path += "?" + request.query_string.decode("latin-1")
        told = self._gateway.front.request(
            request.method, path, body=None if body.complete else _pieces(body), headers=headers
        )
        kept = ("Content-Type", "Retry-After", "WWW-Authenticate", "Location", "ETag")
        response = Response(told.data, told.status)
        for name in kept:
            if name in told.headers:
                response.headers[name] = told.headers[name]
        return response

    def _parked(self, job: str, is_due: Callable[[JobView], bool], seconds: float) -> JobView:
        """Return the job's view once it is due, or after ``seconds``."""
        asked_of = self._view(job)
        if not seconds or is_due(asked_of):
            return asked_of
        self._gateway.polls.park(job, is_due, seconds)
        view = self._view(job)
        if view.auth_key != asked_of.auth_key:  # another job of that name, with other tokens
            raise Refused(404, "no-such-job", f"job {job!r} was deleted", where="job")
        return view

    def _view(self, job: str) -> JobView:
        try:
            return self._gateway.watch.view(job)
        except KeyError:
            raise Refused(
                404, "no-such-job", f"there is no job {job[:80]!r}", where="job"
            ) from None


def _other_version(asked: int, present: int) -> Refused:
    if asked < present:
        detail = f"the job's model is version {present}; ask for your work again"
        return Refused(404, "version-gone", detail, where="version")
    detail = f"the job's model is version {present} so far; wait=SECONDS waits for another"
    return Refused(404, "version-not-there-yet", detail, where="version")


def _number(raw: str, where: str, limit: int = MAX_NUMBER) -> int:
    if raw.isascii() and raw.isdigit() and len(raw) <= 20 and int(raw) < limit:
        return int(raw)
    raise Refused(
        422, "bad-number", f"{where} must be a whole number, not {raw[:40]!r}", where=where
    )


def _seconds(raw: str | None) -> float | None:
    if raw is None:
        return None
    try:
        value = float(raw)
    except ValueError:
        value = -1.0
    if 0 <= value < 1e6:
        return value
    raise Refused(422, "bad-number", f"wait must be seconds, not {raw[:40]!r}", where="wait")


def _pieces(body: RequestBody) -> Iterator[bytes]:
    buffer = memoryview(bytearray(PROXY_PIECE))
    with body:
        while count := body.fill(buffer):
            yield bytes(buffer[:count])
            body.breathe()
