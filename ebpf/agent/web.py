"""The agent over HTTP: metrics for Prometheus, probes for the kubelet.

Why: a probe must be answered while a scrape is slow and while somebody else holds
connections open, so each has a thread. Read only: nothing can be changed here.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client.exposition import choose_encoder

from ebpf.agent.guests import Guest, Guests, listener
from ebpf.agent.health import Health
from ebpf.agent.metrics import registry
from ebpf.agent.settings import AgentSettings
from lifl.dataplane.admin import AgentAdmin
from lifl.errors import LiflError

REQUEST_SECONDS = 10.0
SCRAPE_SECONDS = 5.0
LIMIT = 128

log = logging.getLogger("lifl.agent")


class Web:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz`` until :meth:`close`.

    The probes say 200, or 503 and why as text. Raises Unavailable if the port cannot be had.
    """

    def __init__(self, settings: AgentSettings, health: Health) -> None:
        self._health = health
        self._admin = AgentAdmin(settings.admin_socket, timeout=SCRAPE_SECONDS)
        self._registry = registry(self._admin)
        listening = listener(settings.metrics_host, settings.metrics_port)
        self._guests = Guests("web", listening, self._serve, LIMIT)
        self._guests.start()

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return self._guests.port

    def close(self) -> None:
        """End all connections."""
        self._guests.close()
        self._admin.close()

    def _serve(self, guest: Guest) -> None:
        try:
            _Handler(guest.sock, guest.peer, self)
        except OSError as e:
            log.debug("%s left: %s", guest.peer, e)

    def answer(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Return status, media type and body for a GET of ``path``."""
        match path:
            case "/metrics":
                return self._metrics(accept)
            case "/healthz":
                return _probe(self._health.not_alive())
            case "/readyz":
                return _probe(self._health.not_ready())
            case _:
                return _text(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")

    def _metrics(self, accept: str) -> tuple[HTTPStatus, str, bytes]:
        encode, media_type = choose_encoder(accept)
        try:
            return HTTPStatus.OK, media_type, encode(self._registry)
        except LiflError as e:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, str(e))


def _probe(trouble: str) -> tuple[HTTPStatus, str, bytes]:
    if trouble:
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, trouble)
    return _text(HTTPStatus.OK, "ok")


def _text(status: HTTPStatus, text: str) -> tuple[HTTPStatus, str, bytes]:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()


class _Handler(BaseHTTPRequestHandler):
    """One request on one connection."""

    timeout = REQUEST_SECONDS
    server_version, sys_version = "lifl-agent", ""

    def __init__(self, sock: Any, peer: str, web: Web) -> None:
        self._web = web
        super().__init__(sock, (peer, 0), None)  # type: ignore[arg-type] # serves one request

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        status, media_type, body = self._web.answer(path, self.headers.get("Accept", ""))
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
