"""Writing a file while what goes into it is still being made.

Why: a new model is computed block by block, and the disk is the slowest that takes part: if
it begins with the first block instead of the last, the version is durable little later than
computed. Each piece is handed to the page cache and the kernel is told at once to bring it
to the disk, so that the final sync finds almost nothing left. It must not know models, names or
versions, and promises nothing about durability: that is the sync's.
"""

from __future__ import annotations

import ctypes
import os
import queue
import threading
from types import TracebackType
from typing import Any, Self

PIECE = 2 << 20
"""Bytes: large enough for the disk, small enough that little is left at the end (measured)."""
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin to write dirty pages out, wait for nothing


class WriteBehind:
    """Writes ``source`` to the start of the file ``fd`` as far as it is said to be ready.

    Use as a context manager: left normally, all of ``source`` is in the file (not yet
    synced); left by an exception, the thread has ended and what the file holds is void. The
    memory may not be given back before.
    """

    def __init__(self, fd: int, source: memoryview) -> None:
        self._fd = fd
        self._source = source
        self._given = 0
        self._error: OSError | None = None
        self._orders: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the rest and end the thread; raises OSError if something could not be written."""
        if kind is None:
            self._orders.put(len(self._source))
        self._orders.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def ready(self, upto: int) -> None:
        """Say that the first ``upto`` bytes will not change any more."""
        if upto - self._given >= PIECE:
            self._given = upto
            self._orders.put(upto)

    def _run(self) -> None:
        at = 0
        while (upto := self._orders.get()) is not None:
            if self._error is not None:
                continue
            try:
                while at < upto:
                    wrote = os.pwrite(self._fd, self._source[at : min(at + PIECE, upto)], at)
                    _begin_writing_out(self._fd, at, wrote)
                    at += wrote
            except OSError as e:
                self._error = e


def _find() -> Any:
    """Return sync_file_range(2), or None where the C library has none: it only saves time."""
    try:
        found = ctypes.CDLL(None).sync_file_range
    except AttributeError:
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return found


_sync_file_range = _find()


def _begin_writing_out(fd: int, at: int, nbytes: int) -> None:
    if _sync_file_range is not None:
        _sync_file_range(fd, at, nbytes, _WRITE)  # an error shows again at the final sync
