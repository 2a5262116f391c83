"""The coordinator's HTTP side: routes, probes, metrics, problem documents.

Why: a standard FaaS function is a flask application. It must not contain
decisions: those are behind :class:`functions.coordinator.service.Coordinator`.
"""

from __future__ import annotations

import logging
import time

from flask import Flask, Response, g, jsonify, request
from flask.typing import ResponseReturnValue
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from functions.coordinator import api_internal, api_jobs
from functions.coordinator.access import Access
from functions.coordinator.metrics import Metrics
from functions.coordinator.problems import problem
from functions.coordinator.service import Coordinator

log = logging.getLogger("lifl.coordinator")


def create_app(coordinator: Coordinator) -> Flask:
    """Return the application around a coordinator that has started."""
    app = Flask("lifl-coordinator")
    app.extensions["lifl"] = coordinator
    function = coordinator.settings.function
    access = Access(function.platform_secret, public_auth=function.auth)
    app.register_blueprint(api_jobs.blueprint(coordinator, access))
    app.register_blueprint(api_internal.blueprint(coordinator, access))
    app.register_error_handler(Exception, _answer_problem)
    _probes(app, coordinator)
    _measure(app, Metrics(coordinator))
    return app


def _probes(app: Flask, coordinator: Coordinator) -> None:
    @app.get("/healthz")
    @app.get("/_/health")  # where OpenFaaS probes
    def healthz() -> Response:
        return jsonify(status="ok")

    @app.get("/readyz")
    def readyz() -> Response:
        coordinator.store.jobs()
        return jsonify(status="ok")


def _measure(app: Flask, metrics: Metrics) -> None:
    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), content_type=CONTENT_TYPE_LATEST)

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        endpoint = request.endpoint or "none"
        if endpoint.startswith("internal.") and endpoint != "internal.watch":
            took = time.perf_counter() - g.began
            metrics.requests.labels(endpoint, str(response.status_code)).observe(took)
        return response


def _answer_problem(error: Exception) -> ResponseReturnValue:
    document, status, headers = problem(error, request.path)
    if status == 500:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
    return jsonify(document), status, headers
