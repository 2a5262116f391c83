"""The aggregator's HTTP side: probes, metrics and, without an agent, the vanilla way.

Why: a standard FaaS function answers ``/healthz``, ``/readyz`` and ``/metrics``. The
routes that take payloads exist only where there is no data plane, so that a job's
aggregator has no second entrance. It must not touch the pool.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from math import ceil

from flask import Flask, Response, request
from prometheus_client import CollectorRegistry, generate_latest
from werkzeug.exceptions import HTTPException

from functions.aggregator.blas import best_kernel
from functions.aggregator.draining import Drain
from functions.aggregator.knative import Knative
from functions.aggregator.metrics import AggregatorMetrics
from functions.aggregator.runtime import Runtime
from functions.aggregator.settings import AggregatorSettings
from functions.aggregator.stats import Stats
from functions.aggregator.traffic import Traffic
from functions.aggregator.vanilla import Partials
from functions.aggregator.vanilla_web import add_routes
from lifl.errors import ConfigError, TemporaryError, UpdateError
from lifl.naming import MEDIA_PROBLEM, PROBLEM_BASE

log = logging.getLogger("lifl.aggregator")


def create_app(settings: AggregatorSettings, runtime: Runtime | None) -> Flask:
    """Return the app of an aggregator that runs on ``runtime``, or the vanilla way if None."""
    app = Flask(__name__)
    app.extensions["lifl"] = runtime
    drain = app.extensions["lifl-drain"] = Drain(settings.drain_seconds)
    traffic = app.extensions["lifl-traffic"] = Traffic() if settings.stats_port else None

    def ready() -> bool:
        return not drain.begun and (runtime is None or runtime.ready)

    app.wsgi_app = Knative(app.wsgi_app, ready, traffic)  # type: ignore[method-assign]
    app.register_error_handler(Exception, _problem)
    registry = CollectorRegistry()
    if runtime is None:
        stats = Stats()
        partials = Partials(best_kernel(), stats, settings.max_partials)
        add_routes(app, partials, settings.max_body_bytes, f"/aggregators/{settings.function.name}")
        registry.register(AggregatorMetrics(stats, lambda: len(partials)))
    else:
        registry.register(AggregatorMetrics(runtime.stats, lambda: runtime.open_sums))

    @app.get("/healthz")
    @app.get("/_/health")  # where OpenFaaS probes
    def healthz() -> Response:
        return _state(runtime is None or runtime.alive)

    @app.get("/readyz")
    def readyz() -> Response:
        return _state(ready())

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type="text/plain; version=0.0.4")

    return app


def _state(good: bool) -> Response:
    return Response("ok\n" if good else "not yet\n", 200 if good else 503, mimetype="text/plain")


def _problem(error: Exception) -> Response:
    """Return a problem document (RFC 9457) for any error."""
    where, headers = "", {}
    match error:
        case UpdateError():
            status, code, detail, where = error.status, error.code, error.detail, error.where
        case ConfigError():
            status, code, detail = 422, "unusable", str(error)
        case TemporaryError():
            status, code, detail = 503, "try-again", str(error)
            headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
        case HTTPException():
            status = error.code or 500
            code = error.name.lower().replace(" ", "-")
            detail = error.description or error.name
        case _:
            log.error("a request failed", exc_info=error)
            status, code = 500, "internal-error"
            detail = "the aggregator failed; its log says why"
    document = {
        "type": PROBLEM_BASE + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.path,
        "code": code,
    }
    if where:
        document["where"] = where
    return Response(json.dumps(document), status, headers, content_type=MEDIA_PROBLEM)
