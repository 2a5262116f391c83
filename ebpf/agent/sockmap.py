"""Kernel maps as Python objects, and the socket pairs that live in them.

Why: the loader knows how maps come to be and the switch knows what they mean;
this module knows only keys and values of fixed size behind a descriptor. It
must not import bcc (it gets the library handed in) and must not know a route.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_U32 = struct.Struct("=I")
_SO_COOKIE = 57
"""asm-generic/socket.h; the socket module does not export it."""
_NO_SUCH_KEY = (errno.ENOENT, errno.EINVAL)
"""A sockhash says EINVAL where other maps say ENOENT."""


def failure(what: str) -> OSError:
    """Return the last ctypes call's errno as an OSError."""
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


@dataclass(frozen=True, slots=True)
class Map:
    """One kernel map with u32 keys.

    ``lib`` is libbcc as a ctypes library, ``fd`` the map (owned by whoever made
    this), ``value_bytes`` the size of one value, ``cpus`` how many values the kernel
    keeps for a key (1 unless the map is per CPU).
    """

    lib: Any
    fd: int
    value_bytes: int
    cpus: int = 1

    def update(self, key: int, value: bytes) -> None:
        """Write ``value``, on every CPU of a per-CPU map; raises OSError."""
        raw = value.ljust(self._stride, b"\0") * self.cpus
        if self.lib.bpf_update_elem(self.fd, _U32.pack(key), raw, 0):
            raise failure(f"cannot write key {key} of a kernel map")

    def lookup(self, key: int) -> list[bytes] | None:
        """Return the value of each CPU, or None when there is no such key."""
        raw = ctypes.create_string_buffer(self._stride * self.cpus)
        if self.lib.bpf_lookup_elem(self.fd, _U32.pack(key), raw):
            if ctypes.get_errno() == errno.ENOENT:
                return None
            raise failure(f"cannot read key {key} of a kernel map")
        return [raw.raw[at : at + self.value_bytes] for at in range(0, len(raw), self._stride)]

    def delete(self, key: int) -> None:
        """Remove ``key`` if it is there; raises OSError."""
        gone = self.lib.bpf_delete_elem(self.fd, _U32.pack(key)) == 0
        if not gone and ctypes.get_errno() not in _NO_SUCH_KEY:
            raise failure(f"cannot delete key {key} of a kernel map")

    def __iter__(self) -> Iterator[int]:
        """Yield every key; the map must not shrink meanwhile."""
        key = None
        found = ctypes.create_string_buffer(_U32.size)
        while self.lib.bpf_get_next_key(self.fd, key, found) == 0:
            key = found.raw
            yield int(_U32.unpack(key)[0])

    @property
    def _stride(self) -> int:
        return self.value_bytes if self.cpus == 1 else -(-self.value_bytes // 8) * 8


def possible_cpus(path: Path = Path("/sys/devices/system/cpu/possible")) -> int:
    """Return how many CPUs the kernel keeps per-CPU values for."""
    total = 0
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of one loopback TCP connection, Nagle off.

    TCP, because a sockhash took nothing else for years. The listener lives for this
    call only, and a stranger who connects to it is turned away.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        while True:
            far, address = listener.accept()
            if address == near.getsockname():
                break
            far.close()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def are_a_pair(near: socket.socket, far: socket.socket) -> bool:
    """Tell whether the two are the ends of one loopback TCP connection."""
    try:
        return (
            near.family == far.family == socket.AF_INET
            and near.type == far.type == socket.SOCK_STREAM
            and near.getsockname() == far.getpeername()
            and near.getpeername() == far.getsockname()
            and near.getsockname()[0] == far.getsockname()[0] == "127.0.0.1"
        )
    except OSError:
        return False


def cookie(sock: socket.socket) -> bytes:
    """Return the kernel's name of a socket (8 bytes), the same for its duplicates."""
    return sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
