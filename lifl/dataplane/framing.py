"""Messages over a SOCK_SEQPACKET UNIX socket: one JSON object each, descriptors beside it.

Why: a packet is a message, so nothing has to be put together again, and
SCM_RIGHTS travels with the bytes it belongs to. Only ``sendmsg`` and ``recvmsg``
of the given socket are used, so a gevent socket works as well.

It must not know what a message means.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lifl.errors import WireError

MAX_BYTES = 192 * 1024
"""Longest message: one packet must fit the default send buffer (208 KiB)."""
MAX_FDS = 8


class Message(NamedTuple):
    """What one packet held; the receiver owns ``fds``."""

    body: dict[str, Any]
    fds: list[int]


def send(sock: socket.socket, body: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message; the descriptors are duplicated for the receiver, not given away.

    Raises
    ------
    WireError
        if it is longer than MAX_BYTES.
    OSError
        as ``sendmsg`` does.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([encode(body)], rights, socket.MSG_NOSIGNAL)


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a message's bytes; raises WireError if it is longer than MAX_BYTES."""
    raw = json.dumps(body, separators=(",", ":")).encode()
    if len(raw) > MAX_BYTES:
        raise WireError(f"a message of {len(raw)} bytes; {MAX_BYTES} is the most")
    return raw


def decode(raw: bytes) -> dict[str, Any]:
    """Return what :func:`encode` took; raises WireError if it is no JSON object."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise WireError("a message that is not JSON") from None
    if not isinstance(body, dict):
        raise WireError("a message that is not a JSON object")
    return body


def receive(sock: socket.socket) -> Message | None:
    """Return the next message, or None when the other side is gone.

    Raises
    ------
    WireError
        if the packet is no JSON object or did not fit; its descriptors are closed.
    OSError
        as ``recvmsg`` does.
    """
    raw, ancillary, flags, _ = sock.recvmsg(
        MAX_BYTES, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    try:
        body = _whole(raw, flags) if raw else None
    except WireError:
        close_all(fds)
        raise
    if body is None:
        close_all(fds)
        return None
    return Message(body, fds.tolist())


def _whole(raw: bytes, flags: int) -> dict[str, Any]:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise WireError(f"a message is at most {MAX_BYTES} bytes and {MAX_FDS} descriptors")
    return decode(raw)


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors; one that is closed already does not matter."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
