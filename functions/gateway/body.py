"""A request's body, read off the socket into memory the caller names.

Why: gunicorn's own reader hands out ``bytes``, one more copy of every update.
A body of known length is received straight into a memoryview with
``readv``; only what came in the same packet as the headers is copied. The
reader's own count is kept right, so that the connection can serve the next
request. A chunked body is decoded by gunicorn, piece by piece.

It must not know what the bytes mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import termios
import time
from typing import Any

from gevent import Timeout, get_hub
from gevent.monkey import get_original
from gevent.socket import socket as GeventSocket
from gevent.socket import wait as wait_event
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import NoMoreData, ParseException

from functions.gateway.buffers import ReceiveBuffers
from functions.gateway.problems import ClientGone, Refused
from functions.gateway.turns import PATIENCE, Turns
from lifl.errors import LiflError

READ = 1
_blocking_poll = get_original("select", "poll")  # gevent's own would let others run
LOW_WATER = 256 << 10  # bytes worth waking up for
CHUNK = 256 << 10
LINGER_SECONDS = 10.0
LINGER_BYTES = 256 << 20
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_forgotten = memoryview(bytearray(CHUNK))
"""Where all drains read to: nobody looks at it, and hundreds at once must not hold one each."""


class RequestBody:
    """One request's body.

    ``length`` is what Content-Length says, ``None`` if there is none;
    ``received`` counts the bytes read so far. Use as a context manager while
    reading: it tells a client that asked to go on, takes turns with other uploads
    (see ``turns``), and leaves the socket as it was.
    """

    def __init__(
        self,
        sock: GeventSocket,
        request: Any,
        turns: Turns,
        buffers: ReceiveBuffers,
        *,
        idle: float,
        rate: float,
        expects_continue: bool,
    ) -> None:
        self._sock = sock
        self._body = request.body
        self._fd = sock.fileno()
        self._idle = idle
        self._rate = rate
        self._waited = 0.0
        self._turn = turns.join()
        self._buffers = buffers
        self._watcher: Any = None
        self._poll: Any = None
        self._low_water = 1
        self._buffered = b""
        self._superseded = False
        self.expects_continue = expects_continue
        self.received = 0
        reader = request.body.reader
        self._reader = reader
        self._plain = isinstance(reader, LengthReader)
        self.chunked = isinstance(reader, ChunkedReader)
        announced = any(name == "CONTENT-LENGTH" for name, _ in request.headers)
        self.length: int | None = reader.length if announced else None
        self._ended = self._plain and reader.length == 0

    @property
    def complete(self) -> bool:
        """Whether nothing of the body is left to read."""
        return self._ended

    @property
    def streams(self) -> bool:
        """Whether the body comes in about as fast as it can be read."""
        return self._turn.streams

    def __enter__(self) -> RequestBody:
        self._accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._turn.give()
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        if self._low_water != 1:
            self._set_low_water(1)

    def _accept(self) -> None:
        """Tell a client that asked first that it may send."""
        if self.expects_continue:
            self.expects_continue = False
            self._sock.sendall(_CONTINUE)
        if self._plain and not self._buffered:
            held = self._reader.unreader.take_buffered()
            if self.length:
                self._buffers.offer(self._sock, self.length)
            self._buffered = held[: self._reader.length]
            if len(held) > len(self._buffered):  # the next, pipelined request
                self._reader.unreader.unread(held[len(self._buffered) :])

    def breathe(self) -> None:
        """Let everything else that is ready run; call it after each piece."""
        self._turn.breathe()

    def fill(self, view: memoryview) -> int:
        """Read until ``view`` is full or the body ends; return the number of bytes read.

        Raises
        ------
        ClientGone
            if the client closed before the end of its body.
        Refused
            408 if it is silent or slow for too long, 400 if its chunks are malformed,
            409 if it was superseded.
        """
        filled = 0
        while filled < len(view):
            count = self._some(view[filled:])
            if not count:
                break
            filled += count
        return filled

    def supersede(self) -> None:
        """Stop whoever reads this body: the client began anew on another connection."""
        self._superseded = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def drain(self) -> None:
        """Read the rest of the body and forget it, a bounded amount for a bounded time.

        A client that is still sending when its connection is reset may never
        see the answer it was given.
        """
        if self.expects_continue:  # it was never told to send
            return
        deadline = time.monotonic() + LINGER_SECONDS
        left = LINGER_BYTES
        with contextlib.suppress(OSError, LiflError), self:
            while left > 0 and time.monotonic() < deadline:
                self._idle = max(0.1, deadline - time.monotonic())
                count = self._some(_forgotten)
                if not count:
                    return
                left -= count
                self.breathe()

    def some(self, view: memoryview) -> int:
        """Read what is there now into ``view``; return how many bytes, 0 if none are.

        Only for a body of known length that is not complete. Raises as :meth:`fill`.
        """
        left = self._reader.length
        if self._buffered or len(view) > left:
            return self._some(view, wait=False)
        try:
            count = self._receive(view)
        except ClientGone as e:
            raise self._gone(e) from None
        self._reader.length = left - count
        self._ended = count == left
        self.received += count
        return count

    def wait(self) -> None:
        """Wait until there is something to read; raises as :meth:`fill`."""
        self._wait(self._reader.length)

    def _some(self, view: memoryview, *, wait: bool = True) -> int:
        if self._ended:
            return 0
        try:
            count = self._some_plain(view, wait) if self._plain else self._some_chunked(view)
        except ClientGone as e:
            raise self._gone(e) from None
        self.received += count
        return count

    def _gone(self, error: ClientGone) -> LiflError:
        """Return what a broken connection means: a superseded upload was shut down from here."""
        if not self._superseded:
            return error
        return Refused(409, "superseded", "this client began another upload of its update")

    def _some_plain(self, view: memoryview, wait: bool) -> int:
        left = self._reader.length
        if len(view) > left:
            view = view[:left]
        if self._buffered:
            count = min(len(view), len(self._buffered))
            view[:count] = self._buffered[:count]
            self._buffered = self._buffered[count:]
        else:
            count = self._receive(view)
            while wait and not count:
                self._wait(len(view))
                count = self._receive(view)
        self._reader.length = left - count
        self._ended = count == left
        return count

    def _receive(self, view: memoryview) -> int:
        self._turn.take(self._reader.length, self._arrived)
        try:
            count = os.readv(self._fd, [view])
        except BlockingIOError:
            return 0
        except ConnectionError as e:
            raise ClientGone(str(e)) from e
        if not count:
            raise ClientGone("the client closed its connection in the middle of the body")
        self._turn.read(count)
        return count

    def _wait(self, wanted: int) -> None:
        """Wait until about ``wanted`` bytes are there; raises Refused 408."""
        slowest = int(self._rate * self._idle)  # less than that by then is too slow
        wanted = max(1, min(wanted, LOW_WATER, slowest))
        if self._low_water != wanted:
            self._set_low_water(wanted)
        if self._watcher is None:
            self._watcher = get_hub().loop.io(self._fd, READ)
            self._poll = _blocking_poll()
            self._poll.register(self._fd, select.POLLIN)
        began = time.monotonic()
        if self._comes_soon():
            return
        self._turn.paused()
        try:
            wait_event(self._watcher, timeout=self._idle, timeout_exc=TimeoutError())
        except TimeoutError:
            raise self._too_slow() if self._some_wait() else self._silent() from None
        self._waited += time.monotonic() - began
        if self.received < self._rate * (self._waited - self._idle):
            raise self._too_slow()

    def _comes_soon(self) -> bool:
        """Wait for data as long as is no pause yet."""
        left = min(self._turn.share_left, PATIENCE)
        if left > 0 and self._poll.poll(left * 1000):
            return True
        try:
            wait_event(self._watcher, timeout=PATIENCE, timeout_exc=TimeoutError())
        except TimeoutError:
            return False
        return True

    def _some_wait(self) -> bool:
        """Whether data wait on the socket, though less than was wanted."""
        return self._queued() > 0

    def _queued(self) -> int:
        answer = fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    def _arrived(self) -> int:
        """Return how many bytes of the body have come, read or not."""
        return self.received + self._queued()

    def _silent(self) -> Refused:
        return Refused(408, "body-idle", f"no data came for {self._idle:.0f} s", retry_after=1.0)

    def _too_slow(self) -> Refused:
        detail = f"the body came at less than {self._rate:.0f} bytes per second"
        return Refused(408, "body-too-slow", detail, retry_after=1.0)

    def _set_low_water(self, nbytes: int) -> None:
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
            self._low_water = nbytes

    def _some_chunked(self, view: memoryview) -> int:
        size = min(len(view), CHUNK)
        try:
            with Timeout(self._idle + size / self._rate, TimeoutError()):
                data = self._body.read(size)
        except TimeoutError:
            raise self._too_slow() from None
        except (NoMoreData, ConnectionError) as e:
            raise ClientGone("the client closed its connection in the middle of the body") from e
        except ParseException as e:
            raise Refused(400, "bad-chunk", f"the chunked body is malformed: {e}") from e
        view[: len(data)] = data
        self._ended = not data
        return len(data)
