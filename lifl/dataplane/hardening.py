"""Keep processes of the same user out of this process's memory and descriptors.

Why: a function holds its job's pool as a descriptor, and by default any process
of the same user may open it through ``/proc/PID/fd``, ``pidfd_getfd`` or ptrace.
A process that is not dumpable refuses all three (ptrace(2), "Ptrace access mode
checking"); only CAP_SYS_PTRACE is stronger. Called before the pool arrives.
"""

from __future__ import annotations

import ctypes
import os

_PR_SET_DUMPABLE = 4


def seal_process() -> None:
    """Make this process and its future forks not dumpable; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_DUMPABLE): {os.strerror(code)}")
