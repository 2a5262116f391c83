"""A socket read by lines and by counts, and payload moved from one socket to another.

Why: ingress and dispatcher speak HTTP on one side and Redis's protocol on the other, and a
payload of hundreds of MB must pass them without ever being held: it goes through a pipe whose
pages the kernel moves from socket to socket (splice), as Go's ``io.Copy`` has it between two
connections. It must not know either protocol.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from types import TracebackType
from typing import Self

PIPE_BYTES = 1 << 20
"""What a pipe holds; more than this no user but root may ask for."""
LINE_MOST = 1 << 16


class Ended(ConnectionError):
    """The other end closed in the middle of something."""


class Stream:
    """A connected socket. Not safe for several threads."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; whoever waits in it is woken."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def line(self) -> bytes:
        """Return the next line without its CRLF.

        Raises
        ------
        Ended
            if the other end closed before its end.
        ValueError
            if it is longer than 64 KB.
        """
        while (at := self._held.find(b"\r\n")) < 0:
            if len(self._held) > LINE_MOST:
                raise ValueError(f"a line is longer than {LINE_MOST} bytes")
            self._more()
        found, self._held = self._held[:at], self._held[at + 2 :]
        return found

    def exactly(self, count: int) -> bytes:
        """Return the next ``count`` bytes, few; raises Ended if there are fewer."""
        while len(self._held) < count:
            self._more()
        found, self._held = self._held[:count], self._held[count:]
        return found

    def pump(self, count: int, sink: Stream) -> None:
        """Move the next ``count`` bytes to ``sink`` without looking at them; neither has a timeout.

        Raises
        ------
        Ended
            if this end's other side closed before; what came until then is in the sink.
        OSError
            if the sink takes no more. Then bytes may be lost: close both.
        """
        if self._held and count:
            first, self._held = self._held[:count], self._held[count:]
            sink.sendall(first)
            count -= len(first)
        if not count:
            return
        if self._pipe is None:
            self._pipe = os.pipe()
            with contextlib.suppress(PermissionError):  # this user has many: it works, slower
                fcntl.fcntl(self._pipe[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        out, into = self._pipe
        while count:
            got = os.splice(self.sock.fileno(), into, min(PIPE_BYTES, count))
            if not got:
                raise Ended(f"{count} bytes were to follow")
            count -= got
            more = os.SPLICE_F_MORE if count else 0
            while got:
                got -= os.splice(out, sink.sock.fileno(), got, flags=more)

    def into(self, target: memoryview) -> None:
        """Fill ``target`` with what follows; raises Ended."""
        first, self._held = self._held[: len(target)], self._held[len(target) :]
        at = len(first)
        target[:at] = first
        while at < len(target):
            got = self.sock.recv_into(target[at:])
            if not got:
                raise Ended(f"{len(target) - at} bytes were to follow")
            at += got

    def _more(self) -> None:
        got = self.sock.recv(1 << 16)
        if not got:
            raise Ended("nothing more was sent")
        self._held += got
