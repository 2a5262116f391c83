"""The controller over HTTP: metrics for Prometheus, probes for the kubelet.

Why: a process that waits to lead is ready too: it serves the webhook. Read only; it must
not decide anything.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

log = logging.getLogger("lifl.controller")

REQUEST_SECONDS = 10.0

Trouble = Callable[[], str]
"""Return what is wrong, "" if nothing is."""


class Pages:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz`` from construction until :meth:`close`."""

    def __init__(
        self,
        address: tuple[str, int],
        registry: CollectorRegistry,
        *,
        not_alive: Trouble = str,
        not_ready: Trouble = str,
    ) -> None:
        handler = type("Handler", (_Handler,), {"pages": self})
        self._registry = registry
        self._probes = {"/healthz": not_alive, "/readyz": not_ready}
        self._server = ThreadingHTTPServer(address, handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="pages", kwargs={"poll_interval": 0.1}
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Return status, media type and body for a GET of ``path``."""
        if path == "/metrics":
            encode, media_type = choose_encoder(accept)
            return HTTPStatus.OK, media_type, encode(self._registry)
        if path not in self._probes:
            return _text(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")
        trouble = self._probes[path]()
        if trouble:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, trouble)
        return _text(HTTPStatus.OK, "ok")


def _text(status: HTTPStatus, text: str) -> tuple[HTTPStatus, str, bytes]:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()


class _Handler(BaseHTTPRequestHandler):
    pages: Pages
    timeout = REQUEST_SECONDS
    server_version, sys_version = "lifl-controller", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, media_type, body = self.pages.answer(path, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
