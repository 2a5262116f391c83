"""The HTTPS server that completes functions' pods before they are stored.

Why: the API server asks it about every pod that bears the label, and makes none while it
does not answer (failurePolicy Fail: a function without its agent would wait for ever). So
it serves in every replica, from the start, and knows nothing of the rest of the controller:
a pod in, a patch out, no API server asked, the same answer for a dry run.

It is the standard library's threading server. gunicorn would be another process that reads
its certificate once; here each connection takes the certificate there is then, and its TLS
handshake is in a thread of its own under a time limit, as is all that follows: THREADS at
most, CONNECTION_SECONDS each, one request each (pods are made a few a second at most, and a
connection that idles would keep a thread). It must not decide.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from controller.cluster.admission import BadReview, answer
from controller.cluster.inject import InjectSettings
from controller.webhook_metrics import WebhookMetrics
from lifl.errors import Unavailable
from lifl.naming import MEDIA_PROBLEM, PROBLEM_BASE

log = logging.getLogger("lifl.controller")

PATH = "/mutate"
MAX_BYTES = 3 << 20
"""The API server takes objects of 3 MiB; a pod is a hundredth of that."""
THREADS = 32
SILENCE_SECONDS = 3.0
CONNECTION_SECONDS = 10.0
"""Longest life of a connection; the API server gives up sooner."""
_TICK = 0.2

Context = Callable[[], ssl.SSLContext]


class Webhook:
    """Listens from construction on, serves from :meth:`start` until :meth:`stop`.

    ``context`` is asked for each connection; while it raises Unavailable, connections are
    closed.
    """

    def __init__(
        self,
        address: tuple[str, int],
        context: Context,
        metrics: WebhookMetrics,
        settings: InjectSettings | None = None,
    ) -> None:
        self._context = context
        self._server = _Server(address, context, metrics, settings or InjectSettings())
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="webhook", kwargs={"poll_interval": _TICK}
        )

    @property
    def port(self) -> int:
        """Return the port it listens at."""
        return int(self._server.server_address[1])

    def trouble(self) -> str:
        """Return why it does not serve, "" if it does; for a readiness probe."""
        try:
            self._context()
        except Unavailable as e:
            return f"the webhook cannot serve: {e}"
        return "" if self._thread.is_alive() else "the webhook does not run"

    def start(self) -> None:
        """Serve in threads."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections, and see those that are there to their end."""
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()
        while self._server.busy:
            self._server.service_actions()
            time.sleep(_TICK / 10)
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = False

    def __init__(
        self,
        address: tuple[str, int],
        context: Context,
        metrics: WebhookMetrics,
        settings: InjectSettings,
    ) -> None:
        self.context = context
        self.metrics = metrics
        self.settings = settings
        self._free = threading.BoundedSemaphore(THREADS)
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, once there is one."""
        while not self._free.acquire(timeout=_TICK):
            self.service_actions()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, TLS included."""
        connection: socket.socket = request
        try:
            connection.settimeout(SILENCE_SECONDS)
            self._note(None, connection)
            connection = self._agree(connection)
            self.finish_request(connection, client_address)
        except (OSError, Unavailable) as e:  # ssl.SSLError is an OSError
            self.metrics.broken()
            log.debug("webhook: a connection from %s broke: %s", client_address, e)
        except Exception:
            log.exception("webhook: a connection from %s", client_address)
        finally:
            self._forget(connection)
            self.shutdown_request(connection)
            self._free.release()

    def _agree(self, raw: socket.socket) -> socket.socket:
        tls = self.context().wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        self._note(raw, tls)
        try:
            tls.do_handshake()
        except BaseException:
            self._forget(tls)
            tls.close()
            raise
        return tls

    def _note(self, old: socket.socket | None, new: socket.socket) -> None:
        with self._lock:
            began = time.monotonic() if old is None else self._open.pop(old)
            self._open[new] = began

    @property
    def busy(self) -> bool:
        """Say whether there are connections."""
        with self._lock:
            return bool(self._open)

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)

    def service_actions(self) -> None:
        """Cut connections that take too long, whatever they do."""
        latest = time.monotonic() - CONNECTION_SECONDS
        with self._lock:
            for connection, began in self._open.items():
                if began < latest:
                    with contextlib.suppress(OSError):  # not SSLSocket's: it drops the TLS state
                        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lifl-webhook", ""
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path not in {"/healthz", "/readyz"}:
            self._problem(HTTPStatus.NOT_FOUND, f"there are {PATH}, /healthz and /readyz")
            return
        self._send(HTTPStatus.OK, "text/plain; charset=utf-8", b"ok\n")  # it could shake hands

    def do_POST(self) -> None:
        began = time.monotonic()
        if self.path.partition("?")[0] != PATH:  # the API server adds ?timeout=
            self._problem(HTTPStatus.NOT_FOUND, f"reviews go to {PATH}")
            return
        body = self._body()
        if body is None:
            return
        try:
            review, outcome = answer(body, self.server.settings)
        except BadReview as e:
            self.server.metrics.answered("malformed", time.monotonic() - began)
            self._problem(HTTPStatus.BAD_REQUEST, str(e))
            return
        self._send(HTTPStatus.OK, "application/json", review)
        self.server.metrics.answered(outcome, time.monotonic() - began)

    def _body(self) -> bytes | None:
        """Return the request's body; None if it was answered with a problem."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            self._problem(HTTPStatus.LENGTH_REQUIRED, "say with Content-Length how long it is")
            return None
        if len(length) > 9 or int(length) > MAX_BYTES:
            self._problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BYTES} bytes are taken"
            )
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self._problem(
                HTTPStatus.BAD_REQUEST, f"{length} bytes were announced, {len(body)} came"
            )
            return None
        return body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no HTTP."""
        status = HTTPStatus(code)
        self._problem(status, message or explain or status.phrase)

    def _problem(self, status: HTTPStatus, detail: str) -> None:
        code = status.phrase.lower().replace(" ", "-")
        document = {
            "type": PROBLEM_BASE + code,
            "title": status.phrase,
            "status": int(status),
            "detail": detail,
            "instance": getattr(self, "path", "")[:200],
            "code": code,
        }
        self._send(status, MEDIA_PROBLEM, json.dumps(document).encode())

    def _send(self, status: HTTPStatus, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("webhook: " + format, *args)
