"""The bpf(2) system call.

Why: the C library has no function for it, and those who ask the kernel for a map or a
program (the agent, ``lifl doctor``) need nothing else of libbcc or libbpf. It must not
know what maps or programs are for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform

BPF_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
"""The call's number, by machine."""

MAP_CREATE = 0
MAP_LOOKUP_ELEM = 1
MAP_UPDATE_ELEM = 2
MAP_DELETE_ELEM = 3
MAP_GET_NEXT_KEY = 4
PROG_LOAD = 5
OBJ_PIN = 6
OBJ_GET = 7
PROG_ATTACH = 8
PROG_GET_FD_BY_ID = 13
MAP_GET_FD_BY_ID = 14
OBJ_GET_INFO_BY_FD = 15

_ATTRIBUTES = 128
"""What the kernel gets, filled with zeros: it takes any length that has nothing unknown in it."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_long]
_LIBC.syscall.restype = ctypes.c_long
_NUMBER = BPF_CALL.get(platform.machine())


def call(command: int, attributes: bytes) -> int:
    """Return what the kernel returns (a descriptor, or 0); raises OSError.

    ``attributes`` is the start of ``union bpf_attr``, in the machine's byte order.
    """
    if _NUMBER is None:
        raise OSError(errno.ENOSYS, f"bpf(2) on {platform.machine()} is not known")
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
    result = int(_LIBC.syscall(_NUMBER, command, buffer, _ATTRIBUTES))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
