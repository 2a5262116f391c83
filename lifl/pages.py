"""What a standing process answers over HTTP: metrics for Prometheus, probes for the kubelet.

Why: agents and controllers have the same three pages and no other; what serves them
differs. Read only: nothing can be changed here. It must not listen, nor know what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from lifl.errors import LiflError

log = logging.getLogger("lifl.pages")

Trouble = Callable[[], str]
"""Return what is wrong, "" if nothing is."""
Answer = tuple[HTTPStatus, str, bytes]
"""Status, media type and body."""


class Pages:
    """``/metrics``, ``/healthz`` and ``/readyz``; a probe says 200, or 503 and why as text."""

    def __init__(
        self, registry: CollectorRegistry, *, not_alive: Trouble = str, not_ready: Trouble = str
    ) -> None:
        self._registry = registry
        self._probes = {"/healthz": not_alive, "/readyz": not_ready}

    def answer(self, path: str, accept: str) -> Answer:
        """Return the answer to a GET of ``path``."""
        if path == "/metrics":
            encode, media_type = choose_encoder(accept)
            try:
                return HTTPStatus.OK, media_type, encode(self._registry)
            except LiflError as e:
                return _text(HTTPStatus.SERVICE_UNAVAILABLE, str(e))
        if path not in self._probes:
            return _text(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")
        trouble = self._probes[path]()
        if trouble:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, trouble)
        return _text(HTTPStatus.OK, "ok")


def _text(status: HTTPStatus, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()


class PageHandler(BaseHTTPRequestHandler):
    """Answers requests by ``pages``, which a subclass sets, or its constructor."""

    pages: Pages
    timeout = 10.0
    server_version, sys_version = "lifl", ""

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        status, media_type, body = self.pages.answer(path, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request where it does not fill a node's log."""
        log.debug(format, *args)
