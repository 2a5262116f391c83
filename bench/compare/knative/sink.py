"""Where a round's mean ends: an HTTP server of the harness that takes CloudEvents.

Why: the new model counts as readable when whoever asked for the round holds it. It takes bodies
with a length and in chunks, for a Broker may send either. What the Broker gave up delivering comes
here too and ends the wait for a mean that cannot come. It must not check a mean.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

MEANS_PATH, DEAD_PATH = "/means", "/dead"
PIECE = 1 << 20


class Undelivered(RuntimeError):
    """The Broker gave an event up; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An event that has come: when its last byte was read (monotonic seconds)."""

    path: str
    about: Mapping[str, str]
    document: bytearray
    at: float


class Sink:
    """The server, at a free port of all interfaces; use as a context manager.

    ``host`` is the address by which the cluster's pods reach this machine.
    """

    def __init__(self, host: str) -> None:
        self._arrived: queue.Queue[Arrived] = queue.Queue()
        self._server = _Server(("", 0), _Handler, self._arrived)
        self._thread = threading.Thread(target=self._server.serve_forever, name="sink")
        self._url = f"http://{host}:{self._server.server_address[1]}"

    @property
    def means(self) -> str:
        """Return the URL that means are delivered to."""
        return self._url + MEANS_PATH

    @property
    def dead_letters(self) -> str:
        """Return the URL for what could not be delivered."""
        return self._url + DEAD_PATH

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def mean(self, subject: str, until: float) -> Arrived:
        """Return the mean named ``subject``; others, of rounds given up, are dropped.

        Raises
        ------
        Undelivered
            if an event of that round was given up by the Broker.
        TimeoutError
            if it has not come at ``until`` (monotonic seconds).
        """
        while True:
            try:
                found = self._arrived.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"no mean of {subject} came") from None
            of = found.about.get("subject", "")
            if found.path == DEAD_PATH and (of == subject or of.startswith(subject + ".")):
                raise Undelivered(_why(found.about))
            if found.path == MEANS_PATH and of == subject:
                return found


def local_address(towards: str) -> str:
    """Return this machine's address on the way to ``towards``; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((towards, 9))
        return str(sock.getsockname()[0])


def _why(about: Mapping[str, str]) -> str:
    kind, of = about.get("type", "?"), about.get("subject", "?")
    code, said = about.get("knativeerrorcode", "?"), about.get("knativeerrordata", "")
    to = about.get("knativeerrordest", "?")
    return f"the Broker gave up the {kind} of {of}: {to} answered {code} {said[:200]}".rstrip()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        arrived: queue.Queue[Arrived],
    ) -> None:
        super().__init__(address, handler)
        self.arrived = arrived


class _Handler(BaseHTTPRequestHandler):
    """Reads one event; a broken one is answered, not noted."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        try:
            document = self._body()
        except (ValueError, EOFError) as e:
            self.send_error(400, str(e))
            self.close_connection = True
            return
        about = {k.lower()[3:]: v for k, v in self.headers.items() if k.lower().startswith("ce-")}
        self.server.arrived.put(Arrived(self.path, about, document, time.monotonic()))
        self.send_response_only(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self) -> bytearray:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            whole = bytearray()
            while size := int(self.rfile.readline(64).split(b";")[0], 16):
                whole += self._exactly(size)
                self.rfile.readline(64)
            while self.rfile.readline(8192).strip():
                pass
            return whole
        return self._exactly(int(self.headers.get("Content-Length", "")))

    def _exactly(self, nbytes: int) -> bytearray:
        body = bytearray(nbytes)
        view, at = memoryview(body), 0
        while at < nbytes:
            count = self.rfile.readinto(view[at : at + PIECE])
            if not count:
                raise EOFError(f"{nbytes} bytes were announced, {at} came")
            at += count
        return body
