"""Connections within network namespaces, without moving a process there.

Why: Knative's queue-proxy binds fixed ports on all interfaces, so each needs a network of its
own, as a pod has. A socket belongs to the namespace in which it was made: a thread goes there for
that moment alone, and the function's listening socket and the connections to the sidecar are
the pod's while their processes are not. Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
_HERE = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


def make() -> int:
    """Return a descriptor of a new namespace whose loopback device is up; close it at the end.

    Raises
    ------
    PermissionError
        if this user may not make one.
    """
    before = os.open(_HERE, os.O_RDONLY)
    try:
        _check(_libc.unshare(CLONE_NEWNET))
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
            return os.open(_HERE, os.O_RDONLY)
        finally:
            _check(_libc.setns(before, CLONE_NEWNET))
    finally:
        os.close(before)


@contextlib.contextmanager
def inside(namespace: int | None) -> Iterator[None]:
    """Have this thread's sockets, and the processes it starts, be born in ``namespace``."""
    if namespace is None:
        yield
        return
    before = os.open(_HERE, os.O_RDONLY)
    try:
        _check(_libc.setns(namespace, CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(before, CLONE_NEWNET))
    finally:
        os.close(before)


def listen(namespace: int | None) -> socket.socket:
    """Return a socket that listens on a free port of the namespace's loopback device."""
    with inside(namespace):
        return socket.create_server(("127.0.0.1", 0), backlog=64)


def connect(port: int, namespace: int | None = None) -> socket.socket:
    """Return a connection to ``port`` on the namespace's loopback device."""
    with inside(namespace):
        sock = socket.socket()
    try:
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
