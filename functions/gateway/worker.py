"""The gunicorn worker class of the gateway: one gevent thread, thousands of connections.

Why: gunicorn's gevent worker is right in most things; this class changes what
the gateway's promises need.

* Polls are served one at a time behind everything else: two thousand clients
  asking again at once must not hold up a probe or an upload.
* ``Expect: 100-continue`` is answered when the body is wanted, not before: an
  upload that is refused costs no bytes.
* A request refused with its body unread is answered, then its body is drained,
  so that the client reads the answer instead of a reset.
* Requests that cannot be parsed, or whose headers do not come in time, get a
  problem document too.
* A response that names memory of the pool goes out by ``sendfile``.
* At SIGTERM idle connections close and parked polls are answered at once.

It must not import the app or what it stands on: only the worker process, after
gevent has patched the standard library, may do that.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from gevent.socket import socket as GeventSocket
from gevent.socket import wait_read
from gunicorn.http import get_parser, wsgi
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.workers.ggevent import GeventWorker

from functions.gateway.pauses import let_others_run

BODY = "lifl.body"  # environ: the request's body, see functions.gateway.body
YIELD = "lifl.yield"  # environ: a context in which a poll lets other polls run
PEEK_BYTES = 256
LAST_WORDS = 64  # reads of at most 64 KiB before a malformed request is cut off
_POLL = re.compile(rb"GET /v1/jobs/[^/ ]+/rounds/current[ ?]")
_USUAL = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF, errno.ETIMEDOUT})


class HeaderTimeout(Exception):
    """The headers did not come in time."""


class PollLane:
    """Polls run one at a time, and everything that is ready runs between two of them."""

    def __init__(self) -> None:
        self._one = BoundedSemaphore(1)

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Be the poll that runs."""
        self._one.acquire()
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Let other polls run while this one waits."""
        self._leave()
        try:
            yield
        finally:
            self._one.acquire()

    def _leave(self) -> None:
        try:
            let_others_run()
        finally:
            self._one.release()


class GatewayWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[GeventSocket] = set()
        self._lane = PollLane()
        self._gateway: Any = None

    def load_wsgi(self) -> None:
        """Load the app; the gateway it carries knows bodies and problems."""
        super().load_wsgi()
        self._gateway = self.wsgi.extensions["lifl"]

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Finish what is under way: SIGTERM."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._stop_waiting)

    def _stop_waiting(self) -> None:
        if self._gateway is not None:
            self._gateway.stop()
        for client in list(self._idle):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD)

    # -- one connection -------------------------------------------------------

    def handle(self, listener: Any, client: GeventSocket, addr: Any) -> None:
        """Serve the requests of one connection until it ends."""
        try:
            settings = self._gateway.settings
            client.settimeout(settings.body_idle)
            parser = get_parser(self.cfg, client, addr)
            name = listener.getsockname()
            keep = True
            while keep and self._await_request(parser, client):
                with self._lane.run() if self._is_poll(parser, client) else _at_once():
                    with gevent.Timeout(settings.header_seconds, HeaderTimeout()):
                        request = next(parser)
                    keep = self._respond(name, request, client, addr)
        except (NoMoreData, StopIteration):
            pass
        except OSError as e:
            if e.errno not in _USUAL and not isinstance(e, TimeoutError):
                self.log.exception("socket error")
        except (ParseException, HeaderTimeout) as e:
            self._refuse(client, e)
        except Exception:
            self.log.exception("error while handling a connection")
        finally:
            with contextlib.suppress(OSError):
                client.close()

    def _await_request(self, parser: Any, client: GeventSocket) -> bool:
        """Wait for the first byte of a request; False if none comes while we serve."""
        if _peek_buffered(parser):
            return True
        if not self.alive:
            return False
        self._idle.add(client)
        try:
            wait_read(client.fileno(), timeout=self.cfg.keepalive, timeout_exc=TimeoutError())
        except TimeoutError:
            return False
        finally:
            self._idle.discard(client)
        return True

    @staticmethod
    def _is_poll(parser: Any, client: GeventSocket) -> bool:
        start = _peek_buffered(parser) or client.recv(PEEK_BYTES, socket.MSG_PEEK)
        return _POLL.match(start) is not None

    def _respond(self, name: Any, request: Any, client: GeventSocket, addr: Any) -> bool:
        """Run the app for one request; return whether the connection can serve another."""
        began = datetime.now()
        body = self._gateway.body(client, request, expects_continue=request._expected_100_continue)
        request._expected_100_continue = False
        response, environ = wsgi.create(request, client, addr, name, self.cfg)
        environ[BODY] = body
        environ[YIELD] = self._lane.pause
        answer = self.wsgi(environ, response.start_response)
        try:
            if not (self.alive and body.complete):
                response.force_close()
            if hasattr(answer, "send_to"):
                response.send_headers()
                answer.send_to(client)
                response.sent = answer.length
            else:
                for item in answer:
                    response.write(item)
                response.close()
        finally:
            self.log.access(response, request, environ, datetime.now() - began)
            if hasattr(answer, "close"):
                answer.close()
        if not body.complete:
            client.shutdown(socket.SHUT_WR)
            body.drain()
        return not response.should_close()

    def _refuse(self, client: GeventSocket, error: Exception) -> None:
        """Answer what is no request."""
        problem = self._gateway.problem(error)
        payload = problem.document("")
        lines = [f"HTTP/1.1 {problem.status} {problem.title}", "Connection: close"]
        lines += [f"{k}: {v}" for k, v in problem.headers()]
        lines += [f"Content-Length: {len(payload)}", "", ""]
        with contextlib.suppress(OSError):
            client.sendall("\r\n".join(lines).encode("latin-1") + payload)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(1.0)
            for _ in range(LAST_WORDS):
                if not client.recv(65536):
                    return


def _peek_buffered(parser: Any) -> bytes:
    """Return what gunicorn has read beyond the last request, leaving it there."""
    held: bytes = parser.unreader.take_buffered()
    if held:
        parser.unreader.unread(held)
    return held


def _at_once() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()
