"""How much of an update may come in before it is read.

Why: a new connection's window is small and grows as it is read, and clients whose buffers are
full must be woken for every piece that is. What has come in already costs nobody a wait, but it
is the kernel's memory, which counts as this function's: so every connection may hold a little
from its start, and a few, as long as they last, a whole update.

It asks by ``SO_RCVLOWAT``, for which the kernel makes room, up to half of ``tcp_rmem``'s largest
value, without any right. ``SO_RCVBUF`` would stop the kernel's own tuning, at 208 KB where
nobody has raised ``rmem_max``. It must not read.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Protocol
from weakref import WeakSet

EACH = 4 << 20
"""Bytes that any connection may hold; the kernel's memory for them may be twice as much."""
WHOLE = 8
"""Connections at a time that may hold a whole update, or as much as the kernel gives."""
_MOST = (1 << 31) - 1


class Socket(Protocol):
    """A TCP socket, gevent's or not."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option; raises OSError."""


class ReceiveBuffers:
    """The connections of one process that may hold a whole update, until they are gone."""

    def __init__(self, whole: int = WHOLE) -> None:
        self._whole = whole
        self._held: WeakSet[Socket] = WeakSet()

    def offer(self, sock: Socket, nbytes: int) -> bool:
        """Let all ``nbytes`` of a body come in, if not too many connections may already."""
        if nbytes <= EACH or len(self._held) >= self._whole or sock in self._held:
            return False
        self._held.add(sock)
        hold(sock, nbytes)
        return True


def hold(sock: Socket, nbytes: int = EACH) -> None:
    """Make room for ``nbytes`` on a connection, or on all that a listener will accept."""
    with contextlib.suppress(OSError):  # it is closed: what reads it will tell
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(nbytes, _MOST))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
