"""Sending memory to a socket without copying it into the kernel.

Why: where clients train, the processor is what they are short of, and sending a model costs a
copy of all its bytes. Pages that are handed to a pipe by reference (vmsplice(2)) and go on from
there to the socket (splice(2)) are sent, or on one machine received, from where they lie: about
half the time of ``sendall``, for the client's processor. Where the system does not offer that,
it is ``sendall``.

The memory may not change until the other side has all of it, which an HTTP answer says. It must
not know HTTP.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import socket
from typing import Any

import numpy as np

from lifl.update import Buffer

WORTH = 64 << 10
"""Bytes below which a copy is cheaper."""
PIPE_BYTES = 1 << 20
"""What a pipe may hold; more is refused to users without privileges."""
_MORE = 4  # SPLICE_F_MORE: further bytes follow at once


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Splicer:
    """Sends to one connected TCP socket, which stays its owner's; close it before that.

    Not for TLS: what is encrypted is another memory's.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pipe: tuple[int, int] | None = None
        self._able = _vmsplice is not None and hasattr(os, "splice")

    def send(self, data: Buffer) -> None:
        """Send all of ``data``.

        Raises
        ------
        TimeoutError
            if the socket has a timeout and takes nothing for so long.
        OSError
            as ``sendall`` does.
        """
        view = memoryview(data).cast("B")
        if not self._able or len(view) < WORTH:
            self._sock.sendall(view)
            return
        memory = np.frombuffer(view, np.uint8)  # which tells its address, read-only or not
        address, at = memory.ctypes.data, 0
        try:
            while at < len(view):
                held = self._hold(address + at, len(view) - at)
                if not held:
                    break
                self._drain(held, more=at + held < len(view))
                at += held
        except BaseException:
            self.close()  # what is left in the pipe is nobody's
            raise
        if at < len(view):  # the system does not let us
            self._able = False
            self._sock.sendall(view[at:])

    def __del__(self) -> None:
        """Give the pipe back if nobody did."""
        self.close()

    def close(self) -> None:
        """Give the pipe back."""
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None

    def _hold(self, address: int, nbytes: int) -> int:
        """Put references to memory into the empty pipe; return to how many bytes, 0 if refused."""
        if self._pipe is None:
            try:
                self._pipe = os.pipe2(os.O_CLOEXEC)
            except OSError:
                return 0
            with contextlib.suppress(OSError):  # a smaller one takes more calls
                fcntl.fcntl(self._pipe[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        vector = _Vector(address, min(nbytes, PIPE_BYTES))
        count: int = _vmsplice(self._pipe[1], ctypes.byref(vector), 1, 0)
        return max(0, count)

    def _drain(self, nbytes: int, *, more: bool) -> None:
        """Move what the pipe holds to the socket."""
        source, target = (self._pipe or (-1, -1))[0], self._sock.fileno()
        while nbytes:
            try:
                nbytes -= os.splice(source, target, nbytes, flags=_MORE if more else 0)
            except BlockingIOError:
                self._wait()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        timeout = self._sock.gettimeout()
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError("the write operation timed out")


def _find() -> Any:
    """Return vmsplice(2), or None where the C library has none."""
    try:
        found = ctypes.CDLL(None, use_errno=True).vmsplice
    except (AttributeError, OSError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_uint)
    found.restype = ctypes.c_ssize_t
    return found


_vmsplice = _find()
