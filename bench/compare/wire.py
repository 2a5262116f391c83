"""Short JSON messages between the comparison and a process it started, over a socket pair.

Why: a side's processes may run in another interpreter with other packages (a peer's virtual
environment), print what they like, and must be told when to send and asked what they saw. This
needs the standard library alone, so that every interpreter can import it. No payload goes this
way.
"""

from __future__ import annotations

import json
import socket
from multiprocessing.connection import Connection
from typing import Any

PATIENCE = 120.0
"""Seconds within which a process answers, unless a caller says otherwise."""


class Wire:
    """One end; ``hear`` raises what went wrong in the other process."""

    def __init__(self, fd: int, who: str = "a process") -> None:
        self._connection = Connection(fd)
        self.who = who

    def tell(self, **message: Any) -> None:
        """Send a message."""
        self._connection.send_bytes(json.dumps(message).encode())

    def hear(self, timeout: float | None = PATIENCE) -> dict[str, Any]:
        """Return the next message; wait ``timeout`` seconds at most, forever if None.

        Raises
        ------
        EOFError
            if the other side has closed its end.
        TimeoutError
            if it says nothing in time.
        RuntimeError
            if it reports an error.
        """
        if timeout is not None and not self._connection.poll(timeout):
            raise TimeoutError(f"{self.who} said nothing for {timeout:.0f} s")
        message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        if "error" in message:
            raise RuntimeError(f"{self.who}: {message['error']}")
        return message

    def fileno(self) -> int:
        """Return the descriptor, to wait for more than one."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close this end, which the other hears as its end."""
        self._connection.close()


def pair(who: str) -> tuple[Wire, int]:
    """Return an end for here, and the descriptor of the other to hand on (close it then)."""
    mine, theirs = socket.socketpair()
    return Wire(mine.detach(), who), theirs.detach()


def connect(path: str, who: str) -> Wire:
    """Return an end whose other end accepts on the UNIX socket ``path``."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return Wire(sock.detach(), who)
