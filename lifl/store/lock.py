"""The lock of a pool's slot table.

Why: Python has no compare-and-swap on shared memory, so one arbiter is named: a
POSIX record lock on the memfd, which the kernel releases when its holder dies.
(`flock` and open-file-description locks belong to the open file, which every
process of a domain shares once the descriptor was passed: they exclude nobody.)

POSIX locks belong to the *process*: threads of one process, and two mappings of
one pool in one process, are kept apart by a thread lock per memfd. A process
that closes any descriptor of the memfd drops its record lock, so descriptors
are closed under the same thread lock.

It must not know what the table holds.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from types import TracebackType

from lifl.errors import PoolBusy

_FLOCK = struct.Struct("hhqqi4x")
_registry: dict[tuple[int, int], threading.RLock] = {}
_registry_guard = threading.Lock()


def _thread_lock(fd: int) -> threading.RLock:
    info = os.fstat(fd)
    with _registry_guard:
        return _registry.setdefault((info.st_dev, info.st_ino), threading.RLock())


class TableLock:
    """Mutual exclusion over a pool, across processes and threads.

    Use as a context manager; raises :class:`PoolBusy` after ``timeout`` seconds.
    """

    def __init__(self, fd: int, *, timeout: float = 5.0) -> None:
        self._fd = fd
        self.timeout = timeout
        self.threads = _thread_lock(fd)

    def __enter__(self) -> None:
        if not self.threads.acquire(timeout=self.timeout):
            raise PoolBusy("another thread holds the pool's table lock", retry_after=1.0)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except (BlockingIOError, PermissionError):
            self._wait()
        except BaseException:
            self.threads.release()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + self.timeout
        pause = 2e-5
        try:
            while True:
                time.sleep(pause)
                pause = min(pause * 2, 2e-3)
                try:
                    fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
                    return
                except (BlockingIOError, PermissionError):
                    if time.monotonic() > deadline:
                        raise PoolBusy(
                            f"process {self.holder()} has held the pool's table lock for "
                            f"{self.timeout:.0f} s",
                            retry_after=1.0,
                        ) from None
        except BaseException:
            self.threads.release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1)
        self.threads.release()

    def holder(self) -> int:
        """Return the pid of the *other* process that holds the lock, 0 if none does."""
        query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, query))
        return 0 if kind == fcntl.F_UNLCK else int(pid)
