"""Kernel maps as Python objects, and the socket pairs that live in them.

Why: the loader knows how maps come to be and the switch knows what they mean;
this module knows only keys and values of fixed size behind a descriptor, by the
bpf(2) call alone, whatever library made the map. It must not know a route.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lifl import bpf

_U32 = struct.Struct("=I")
_ELEMENT = struct.Struct("=IxxxxQQQ")
"""union bpf_attr: map, address of the key, address of the value or the next key, flags."""
_PIN = struct.Struct("=QII")
"""The same: address of the path, descriptor, flags."""
_ATTACH = struct.Struct("=IIII")
_INFO = struct.Struct("=IIQ")
_MAP_INFO = struct.Struct("=IIIIII")
"""Start of struct bpf_map_info: type, id, key and value size, maximum, flags."""
_SO_COOKIE = 57
"""asm-generic/socket.h; the socket module does not export it."""
_IFREQ = struct.Struct("=16sH22x")
"""struct ifreq: an interface's name and flags."""
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1
"""SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP."""
_NO_SUCH_KEY = (errno.ENOENT, errno.EINVAL)
"""A sockhash says EINVAL where other maps say ENOENT."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the kernel knows of a map: enum bpf_map_type, sizes in bytes, BPF_F_* flags."""

    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int


def shape(fd: int) -> Shape:
    """Ask the kernel; raises OSError."""
    info = ctypes.create_string_buffer(_MAP_INFO.size)
    bpf.call(bpf.OBJ_GET_INFO_BY_FD, _INFO.pack(fd, len(info), ctypes.addressof(info)))
    type_, _, *rest = _MAP_INFO.unpack(info.raw)
    return Shape(type_, *rest)


def open_pin(path: Path) -> int:
    """Return a descriptor of the map or program pinned at ``path``; raises OSError."""
    try:
        name = ctypes.create_string_buffer(os.fsencode(path))
        return bpf.call(bpf.OBJ_GET, _PIN.pack(ctypes.addressof(name), 0, 0))
    except OSError as e:
        raise OSError(e.errno, f"cannot open {path}: {e.strerror}") from e


def pin(fd: int, path: Path) -> None:
    """Pin a map or program at ``path``, in a bpffs; raises OSError."""
    try:
        name = ctypes.create_string_buffer(os.fsencode(path))
        bpf.call(bpf.OBJ_PIN, _PIN.pack(ctypes.addressof(name), fd, 0))
    except OSError as e:
        raise OSError(e.errno, f"cannot pin {path}: {e.strerror}") from e


def attach(program: int, target: int, type_: int) -> None:
    """Attach a program to the map ``target``; raises OSError."""
    bpf.call(bpf.PROG_ATTACH, _ATTACH.pack(target, program, type_, 0))


@dataclass(frozen=True, slots=True)
class Map:
    """One kernel map with u32 keys.

    ``fd`` is the map (owned by whoever made this), ``value_bytes`` the size of one value,
    ``cpus`` how many values the kernel keeps for a key (1 unless the map is per CPU).
    """

    fd: int
    value_bytes: int
    cpus: int = 1

    def update(self, key: int, value: bytes) -> None:
        """Write ``value``, on every CPU of a per-CPU map; raises OSError."""
        raw = ctypes.create_string_buffer(value.ljust(self._stride, b"\0") * self.cpus)
        try:
            self._ask(bpf.MAP_UPDATE_ELEM, key, raw)
        except OSError as e:
            raise OSError(e.errno, f"cannot write key {key} of a kernel map: {e.strerror}") from e

    def lookup(self, key: int) -> list[bytes] | None:
        """Return the value of each CPU, or None when there is no such key."""
        raw = ctypes.create_string_buffer(self._stride * self.cpus)
        try:
            self._ask(bpf.MAP_LOOKUP_ELEM, key, raw)
        except OSError as e:
            if e.errno == errno.ENOENT:
                return None
            raise OSError(e.errno, f"cannot read key {key} of a kernel map: {e.strerror}") from e
        return [raw.raw[at : at + self.value_bytes] for at in range(0, len(raw), self._stride)]

    def delete(self, key: int) -> None:
        """Remove ``key`` if it is there; raises OSError."""
        try:
            self._ask(bpf.MAP_DELETE_ELEM, key)
        except OSError as e:
            if e.errno not in _NO_SUCH_KEY:
                what = f"cannot delete key {key} of a kernel map: {e.strerror}"
                raise OSError(e.errno, what) from e

    def __iter__(self) -> Iterator[int]:
        """Yield every key; the map must not shrink meanwhile."""
        key: int | None = None
        found = ctypes.create_string_buffer(_U32.size)
        while True:
            try:
                self._ask(bpf.MAP_GET_NEXT_KEY, key, found)
            except OSError:  # that was the last one
                return
            key = int(_U32.unpack(found.raw)[0])
            yield key

    def _ask(
        self, command: int, key: int | None, value: ctypes.Array[ctypes.c_char] | None = None
    ) -> None:
        raw = ctypes.create_string_buffer(_U32.pack(key or 0), _U32.size)
        at = 0 if key is None else ctypes.addressof(raw)
        bpf.call(
            command,
            _ELEMENT.pack(self.fd, at, 0 if value is None else ctypes.addressof(value), 0),
        )

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


def keep_loopback_up(sock: socket.socket) -> None:
    """Have the loopback interface of the network that ``sock`` was made in carry packets.

    A pair lives in the network namespace of the agent that made it. When that agent's pod
    goes, the sockets keep the namespace, and its loopback is set down. Raises OSError
    (the right is CAP_NET_ADMIN).
    """
    asked = fcntl.ioctl(sock, _GET_FLAGS, _IFREQ.pack(b"lo", 0))
    flags = _IFREQ.unpack(asked)[1]
    if not flags & _UP:
        fcntl.ioctl(sock, _SET_FLAGS, _IFREQ.pack(b"lo", flags | _UP))


def cookie(sock: socket.socket) -> bytes:
    """Return the kernel's name of a socket (8 bytes), the same for its duplicates."""
    return sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
