"""What Knative asks of a pod where queue-proxy is gone: probes, and counted requests.

Why: the controller's webhook takes queue-proxy out of aggregator pods; what its ports
answered is answered here, found by reading and by trying with Knative 1.23:

    port      request                           answer
    PORT      K-Network-Probe: queue, any path  200 "queue" when ready, 503 when not
    PORT      K-Network-Probe: probe            200 with its K-Network-Hash (ingresses)
    PORT      K-Network-Probe: anything else    400: the autoscaler asks for "activator" to
                                                see whether requests still come here directly
    PORT      anything else                     the function's own; counted, and as proxied
                                                too with K-Proxy-Request: activator
    LIFL_STATS_PORT  GET /metrics               a Stat message, see traffic.py

Kubelet's probes, and paths that only a platform asks for, are not counted: they would
keep a function from scaling to zero. Behind the activator ``Host`` is a pod's address,
the caller's is in K-Original-Host; nothing here builds a URL of it, so both stay.

Without such headers a request passes through unchanged, and where LIFL_STATS_PORT is not
set it is not counted either. It must not know what the function does.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from functions.aggregator.traffic import Traffic
from lifl.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

QUEUE = b"queue"
MEDIA = "application/protobuf"
"""The autoscaler compares it byte by byte."""
UNCOUNTED = frozenset({"/healthz", "/readyz", "/_/health", "/metrics"})
SCRAPERS = 16
"""Connections to the stats port at once."""
SCRAPE_SECONDS = 5.0
"""The longest silence on one."""


class Knative:
    """WSGI middleware: answers probes, counts the rest in ``traffic`` if there is one."""

    def __init__(
        self, app: WSGIApplication, ready: Callable[[], bool], traffic: Traffic | None
    ) -> None:
        self._app = app
        self._ready = ready
        self._traffic = traffic

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        probe = environ.get("HTTP_K_NETWORK_PROBE")
        if probe:
            return self._answer(probe, environ.get("HTTP_K_NETWORK_HASH", ""), start_response)
        traffic = self._traffic
        if traffic is None or environ["PATH_INFO"] in UNCOUNTED or _from_kubelet(environ):
            return self._app(environ, start_response)
        proxied = environ.get("HTTP_K_PROXY_REQUEST") == "activator"
        traffic.enter(proxied)
        try:
            return _Counted(self._app(environ, start_response), traffic, proxied)
        except BaseException:
            traffic.leave(proxied)
            raise

    def _answer(self, probe: str, hash_: str, start_response: StartResponse) -> Iterable[bytes]:
        headers = []
        ready = self._ready()
        if probe != "queue" and not (probe == "probe" and hash_):
            status, body = "400 Bad Request", b"unexpected K-Network-Probe\n"
        elif not ready:
            status, body = "503 Service Unavailable", b"not ready\n"
        elif probe == "queue":
            status, body = "200 OK", QUEUE
        else:
            status, body = "200 OK", b""
            headers.append(("K-Network-Hash", hash_))
        headers += [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body]


def _from_kubelet(environ: WSGIEnvironment) -> bool:
    return "HTTP_K_KUBELET_PROBE" in environ or environ.get("HTTP_USER_AGENT", "").startswith(
        "kube-probe/"
    )


class _Counted:
    """A response whose end is noted; the server closes it when the last byte is out."""

    __slots__ = ("_body", "_proxied", "_traffic")

    def __init__(self, body: Iterable[bytes], traffic: Traffic, proxied: bool) -> None:
        self._body = body
        self._traffic: Traffic | None = traffic
        self._proxied = proxied

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        traffic, self._traffic = self._traffic, None
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            if traffic is not None:
                traffic.leave(self._proxied)


class StatsServer(socketserver.ThreadingTCPServer):
    """Answers GET /metrics on a port of its own, so that a loaded function can be seen as such.

    Raises
    ------
    ConfigError
        if the port is taken.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    allow_reuse_port = True  # a worker that ends answers beside the one that replaces it
    request_queue_size = 64

    def __init__(self, host: str, port: int, pod_name: str, traffic: Traffic) -> None:
        self.pod_name = pod_name
        self.traffic = traffic
        self._free = threading.BoundedSemaphore(SCRAPERS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _StatsHandler)
        except OSError as e:
            raise ConfigError(
                f"LIFL_STATS_PORT={port} cannot be had ({e.strerror}); where queue-proxy "
                "answers it, leave the variable out"
            ) from e

    def start(self) -> None:
        """Serve in a thread that ends with the process, or with :meth:`stop`."""
        threading.Thread(
            target=self.serve_forever, args=(0.5,), name="knative-stats", daemon=True
        ).start()

    def stop(self) -> None:
        """Close the port."""
        self.shutdown()
        self.server_close()

    def verify_request(self, _request: object, _client: object) -> bool:
        """Take a connection if there is a thread for it."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: object, client: object) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client)  # type: ignore[arg-type]
        finally:
            self._free.release()

    def handle_error(self, _request: object, _client: object) -> None:
        """Say nothing: a scraper that went away is not this function's trouble."""


class _StatsHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SCRAPE_SECONDS
    wbufsize = -1  # one segment: the second of two would wait for the first one's ACK
    server: StatsServer

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        body = self.server.traffic.stat(self.server.pod_name).encode()
        self.send_response(200)
        self.send_header("Content-Type", MEDIA)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: there is a scrape a second."""
