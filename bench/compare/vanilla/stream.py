"""A socket read by lines and by counts, and payload moved from one socket to another.

Why: ingress and dispatcher speak HTTP on one side and Redis's protocol on the other, and a
payload of hundreds of MB must pass them without ever being held: one buffer each, filled and
emptied again and again. It must not know either protocol.
"""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType
from typing import Protocol, Self

PIECE = 1 << 18
"""Bytes of a buffer that payload passes through: it stays in a core's cache."""
LINE_MOST = 1 << 16


class Sink(Protocol):
    """Where bytes go, a socket for one."""

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Take all of it."""
        ...


class Ended(ConnectionError):
    """The other end closed in the middle of something."""


class Stream:
    """A connected socket. Not safe for several threads."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""
        self._buffer: memoryview | None = None

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

    def pump(self, count: int, sink: Sink) -> None:
        """Move the next ``count`` bytes to ``sink`` through one buffer; raises Ended."""
        if self._held and count:
            first, self._held = self._held[:count], self._held[count:]
            sink.sendall(first)
            count -= len(first)
        if self._buffer is None:
            self._buffer = memoryview(bytearray(PIECE))
        while count:
            got = self.sock.recv_into(self._buffer[: min(PIECE, count)])
            if not got:
                raise Ended(f"{count} bytes were to follow")
            sink.sendall(self._buffer[:got])
            count -= got

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
