"""Messages over a byte stream, such as TLS: four bytes of length (big-endian) before each.

Why: the controller is on another machine than most agents, where there are no
packet sockets; what is said is the same (:mod:`lifl.dataplane.framing`). It must
not know what a message means, and must not trust a length.
"""

from __future__ import annotations

import socket
import struct
import time

from lifl.dataplane.framing import MAX_BYTES
from lifl.errors import WireError

LENGTH = struct.Struct(">I")


def send(sock: socket.socket, raw: bytes) -> None:
    """Send one message; raises OSError as ``sendall`` does."""
    sock.sendall(LENGTH.pack(len(raw)) + raw)


def receive(sock: socket.socket, seconds: float, *, idle: float | None) -> bytes | None:
    """Return the next message, or None when the other side has ended between two.

    ``idle`` is how many seconds it may wait for the first byte (None: for ever),
    ``seconds`` how many the rest may take. The socket's timeout is changed.

    Raises
    ------
    WireError
        if the length is 0 or more than MAX_BYTES.
    TimeoutError
        if it does not come in time.
    OSError
        as ``recv`` does, and if the other side ends within a message.
    """
    sock.settimeout(idle)
    first = sock.recv(1)
    if not first:
        return None
    deadline = time.monotonic() + seconds
    (length,) = LENGTH.unpack(first + _exactly(sock, LENGTH.size - 1, deadline))
    if not 0 < length <= MAX_BYTES:
        raise WireError(f"a message of {length} bytes; there are 1 to {MAX_BYTES}")
    return _exactly(sock, length, deadline)


def _exactly(sock: socket.socket, size: int, deadline: float) -> bytes:
    raw = bytearray()
    while len(raw) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("a message does not come to its end")
        sock.settimeout(left)
        piece = sock.recv(size - len(raw))
        if not piece:
            raise ConnectionResetError("the connection ended within a message")
        raw += piece
    return bytes(raw)
