"""The mapping of one pool: create, attach, views, pre-faulting, giving pages back.

Why: first touch of a page costs more than the copy into it, so slots are
reused and every process maps the pool once (``docs/architecture.md`` has the
figures). It must not change the slot table: leases are :mod:`lifl.store.pool`.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lifl.errors import ConfigError
from lifl.store.layout import (
    HEADER,
    LAYOUT_VERSION,
    MAGIC,
    NOT_COVERED,
    ROLE,
    SLOT,
    PoolGeometry,
)
from lifl.store.lock import TableLock

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE = 22, 23  # Linux 5.14; the mmap module names neither

MAKE_BYTES = 8 << 20
"""Pages of an unused slot up to this size are made in one call: about 0.6 ms per MB."""


class PoolMemory:
    """A mapped pool and its views."""

    def __init__(self, fd: int, geometry: PoolGeometry) -> None:
        self.fd = fd
        self.geometry = geometry
        self._map = mmap.mmap(fd, geometry.total_bytes)
        self._view = memoryview(self._map)
        self._header: Any = np.frombuffer(self._map, HEADER, 1)[0]
        table = np.frombuffer(self._map, SLOT, geometry.slots, geometry.table_offset)
        self._col: dict[str, npt.NDArray[Any]] = {name: table[name] for name in SLOT.names or ()}
        self._roles = np.frombuffer(self._map, ROLE, geometry.lanes, geometry.roles_offset)
        self.lock = TableLock(fd)
        self._closed = False
        self._seen: set[int] = set()

    @classmethod
    def create(cls, name: str, geometry: PoolGeometry, *, prefault_slots: int = 0) -> Self:
        """Make a pool and touch the pages of its first ``prefault_slots`` slots.

        The pages are charged to the calling process, which should be the agent.
        The memfd cannot be shrunk, grown or unsealed afterwards.
        """
        fd = os.memfd_create(f"lifl-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, geometry.total_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        pool = cls(fd, geometry)
        header = pool._header
        header["version"] = LAYOUT_VERSION
        header["slots"] = geometry.slots
        header["float_bytes"] = geometry.float_bytes
        header["meta_bytes"] = geometry.meta_bytes
        header["lanes"] = geometry.lanes
        header["clock"] = 1
        pool._col["generation"][:] = 1
        pool._col["covered_slot"][:] = NOT_COVERED
        header["magic"] = MAGIC
        pool.prefault(range(min(prefault_slots, geometry.slots)))
        return pool

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Map a pool that another process made; takes ownership of ``fd``.

        Raises
        ------
        ConfigError
            if ``fd`` is not a sealed pool of this layout.
        """
        header = np.frombuffer(
            os.pread(fd, HEADER.itemsize, 0).ljust(HEADER.itemsize, b"\0"), HEADER
        )[0]
        if header["magic"] != MAGIC or header["version"] != LAYOUT_VERSION:
            raise ConfigError("the descriptor is not a LIFL pool of this version")
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ConfigError("the pool's memory is not sealed against resizing")
        geometry = PoolGeometry(
            int(header["slots"]),
            int(header["float_bytes"]),
            int(header["meta_bytes"]),
            int(header["lanes"]),
        )
        if os.fstat(fd).st_size != geometry.total_bytes:
            raise ConfigError("the pool's size does not fit its header")
        return cls(fd, geometry)

    def close(self) -> None:
        """Unmap and close; views handed out keep the mapping alive until they go."""
        if self._closed:
            return
        self._closed = True
        with self.lock.threads:  # closing a descriptor drops this process's record locks
            self._col = {}
            del self._header, self._roles
            self._view.release()
            with contextlib.suppress(BufferError):
                self._map.close()
            os.close(self.fd)

    def prefault(self, slots: Sequence[int] | range) -> None:
        """Touch the pages of ``slots`` so that later writers pay no first-touch fault."""
        size = self.geometry.slot_bytes
        for slot in slots:
            start = self.geometry.slot_offset(slot)
            try:
                self._map.madvise(_MADV_POPULATE_WRITE, start, size)
            except OSError:  # an older kernel: touch by hand
                np.frombuffer(self._map, np.uint8, size, start)[::4096] |= np.uint8(0)
            self._col["touched"][slot] = 1

    def warm_slots(self) -> int:
        """Return how many slots have their pages."""
        return int(np.count_nonzero(self._col["touched"]))

    def is_warm(self, slot: int) -> bool:
        """Say whether a slot has its pages."""
        return bool(self._col["touched"][slot])

    def cold_slot(self) -> int | None:
        """Return the first slot without pages, None if all have theirs."""
        cold = np.flatnonzero(self._col["touched"] == 0)
        return int(cold[0]) if len(cold) else None

    def make_pages(self, slot: int, start: int, nbytes: int) -> None:
        """Make the pages of a part of a slot, in bytes from its start, whatever is in them.

        They are charged to the calling process. Raises OSError if there is no memory.
        """
        os.posix_fallocate(self.fd, self.geometry.slot_offset(slot) + start, nbytes)

    def note_warm(self, slot: int) -> None:
        """Say that a slot has its pages: it is used before those that have none.

        Raises
        ------
        PoolBusy
            if the table cannot be had in time.
        """
        with self.lock:
            if not self._col["touched"][slot]:
                self._col["touched"][slot] = 1

    def floats(self, slot: int) -> npt.NDArray[np.float32]:
        """Return the float area of a slot, float32 of shape ``(float_bytes / 4,)``."""
        self.map_slot(slot)
        g = self.geometry
        return np.frombuffer(
            self._map, np.float32, g.float_bytes // 4, g.slot_offset(slot) + g.meta_bytes
        )

    def meta(self, slot: int) -> memoryview:
        """Return the meta area of a slot, writable, ``meta_bytes`` long."""
        start = self.geometry.slot_offset(slot)
        return self._view[start : start + self.geometry.meta_bytes]

    def slot_bytes(self, slot: int) -> memoryview:
        """Return a whole slot, writable: the meta area, then the float area."""
        self.map_slot(slot)
        start = self.geometry.slot_offset(slot)
        return self._view[start : start + self.geometry.slot_bytes]

    def map_slot(self, slot: int) -> None:
        """Map a slot's pages in one call when this process first looks at it.

        Page by page, as they are touched, costs three times as much for a writer. Of a
        large slot that nobody has used the pages would first have to be made, which
        takes long in one call.
        """
        if slot in self._seen:
            return
        size, advice = self.geometry.slot_bytes, _MADV_POPULATE_READ
        if not self._col["touched"][slot]:
            if size > MAKE_BYTES:
                return
            advice = _MADV_POPULATE_WRITE
        self._seen.add(slot)
        with contextlib.suppress(OSError):  # an older kernel maps them as they are touched
            self._map.madvise(advice, self.geometry.slot_offset(slot), size)

    def unmapped(self) -> int | None:
        """Return a slot with pages that this process has not looked at yet, None if all are."""
        used = np.flatnonzero(self._col["touched"])
        if len(used) <= len(self._seen):
            return None
        return next((s for s in used.tolist() if s not in self._seen), None)

    def document_offset(self, slot: int) -> int:
        """Return where the slot's document starts in the memfd, for ``sendfile``."""
        return self.geometry.slot_offset(slot) + int(self._col["doc_start"][slot])
