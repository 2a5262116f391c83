"""What the slot table says: rows, searches, usage, role rows.

Why: gateways, agents and metrics ask the table far more often than they change
it. It must not change a lease (:mod:`lifl.store.pool` does); it gives the pages of free slots back.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lifl.errors import PoolDamaged
from lifl.store.layout import RoleRow, SlotEntry, SlotKind, SlotRef, SlotState, Work
from lifl.store.memory import PoolMemory

SPARE = 2
_FREE, _WRITING = int(SlotState.FREE), int(SlotState.WRITING)
_PARTIAL = int(SlotKind.PARTIAL)


class PoolUsage(NamedTuple):
    """How many slots are in which state, and the most that were ever in use at once.

    ``kept`` of the free ones are left to outputs.
    """

    slots: int
    free: int
    writing: int
    sealed: int
    taken: int
    retired: int
    peak_in_use: int
    kept: int = 0


class PoolTable(PoolMemory):
    """A mapped pool and its table."""

    def entry(self, slot: int) -> SlotEntry:
        """Return a snapshot of one row; raises PoolDamaged if it makes no sense."""
        c = self._col
        try:
            state = SlotState(int(c["state"][slot]))
            kind = SlotKind(int(c["kind"][slot]) or SlotKind.UPDATE)
        except ValueError as e:
            raise PoolDamaged(f"slot {slot} of the table: {e}") from None
        return SlotEntry(
            state,
            kind,
            int(c["generation"][slot]),
            int(c["owner"][slot]),
            int(c["holder"][slot]),
            int(c["assignment"][slot]),
            int(c["base_version"][slot]),
            int(c["cover_count"][slot]),
            int(c["layout"][slot]),
            int(c["pages"][slot]),
            int(c["serial"][slot]),
            float(c["weight"][slot]),
            int(c["doc_start"][slot]),
            int(c["doc_bytes"][slot]),
            int(c["sealed_ns"][slot]),
        )

    def find(
        self,
        *,
        state: SlotState | None = None,
        kind: SlotKind | None = None,
        assignment: int | None = None,
        owner: int | None = None,
        holder: int | None = None,
    ) -> list[SlotRef]:
        """Return the objects that match everything given, in slot order."""
        c = self._col
        mask = c["state"] != _FREE if state is None else c["state"] == int(state)
        wanted = {"kind": kind, "assignment": assignment, "owner": owner, "holder": holder}
        for name, value in wanted.items():
            if value is not None:
                mask &= c[name] == int(value)
        return [SlotRef(int(s), int(c["generation"][s])) for s in np.flatnonzero(mask)]

    def usage(self) -> PoolUsage:
        """Return how many slots are in which state."""
        states = self._col["state"]
        free, writing, sealed, taken, retired = (
            int(np.count_nonzero(states == int(s))) for s in SlotState
        )
        peak = int(self._header["peak"])
        kept = self.kept
        return PoolUsage(self.geometry.slots, free, writing, sealed, taken, retired, peak, kept)

    @property
    def scarce(self) -> bool:
        """Whether there is hardly a slot left for updates."""
        free = int(np.count_nonzero(self._col["state"] == _FREE))
        return free <= self.kept + SPARE

    def reset_peak(self) -> None:
        """Start measuring ``peak_in_use`` anew, from what is in use now."""
        with self.lock:
            self._header["peak"] = int(np.count_nonzero(self._col["state"] != _FREE))

    @property
    def kept(self) -> int:
        """How many free slots ingest leaves to outputs now.

        Those that are reserved, less the outputs that have their slot and are written already;
        of those no more than every aggregator's one, since partials of other nodes, which
        nobody reserved for, are written as well.
        """
        reserved = self.reserved
        c = self._col
        writing = int(np.count_nonzero((c["state"] == _WRITING) & (c["kind"] == _PARTIAL)))
        return reserved - min(writing, max(0, reserved - 2) // 2)

    @property
    def reserved(self) -> int:
        """How many slots are for outputs: two for each aggregator, and two to spare."""
        return int(self._header["reserved"])

    @reserved.setter
    def reserved(self, slots: int) -> None:
        self._header["reserved"] = slots

    def write_role(self, lane: int, row: RoleRow) -> None:
        """Tell the function on ``lane`` its part (agent only)."""
        with self.lock:
            for name, value in row._asdict().items():
                self._roles[name][lane] = value

    def read_role(self, lane: int) -> RoleRow:
        """Return the part of the function on ``lane``; assignment 0 means none."""
        with self.lock:
            row = self._roles[lane]
            return RoleRow(
                int(row["assignment"]),
                int(row["epoch"]),
                int(row["goal"]),
                int(row["timing"]),
                bool(row["final"]),
                int(row["lo"]),
                int(row["hi"]),
                bool(row["parent_remote"]),
            )

    def write_work(self, lane: int, work: Work) -> None:
        """Leave what the function on ``lane`` has done where the agent looks.

        Without the lock: one writer, and a reader that is content with either value.
        """
        self._roles["added"][lane] = work.added
        self._roles["waited_ns"][lane] = work.waited_ns
        self._roles["busy_ns"][lane] = work.busy_ns

    def read_work(self, lane: int) -> Work:
        """Return what the function on ``lane`` says it has done."""
        row = self._roles[lane]
        return Work(int(row["added"]), int(row["waited_ns"]), int(row["busy_ns"]))

    def cover(self, slot: int) -> npt.NDArray[np.uint64]:
        """Return a copy of the serials in an object: one for an update, many for a partial.

        Raises
        ------
        PoolDamaged
            if there are more than the object can hold.
        """
        if int(self._col["kind"][slot]) != SlotKind.PARTIAL:
            return np.array([self._col["serial"][slot]], np.uint64)
        count = int(self._col["cover_count"][slot])
        if count * 8 > self.geometry.meta_bytes:
            raise PoolDamaged(f"slot {slot} of the table claims to cover {count} updates")
        return np.frombuffer(self.meta(slot), np.uint64, count).copy()

    def punch(self) -> int:
        """Give the pages of free slots back to the system; return how many bytes."""
        given = 0
        with self.lock:
            warm = (self._col["state"] == _FREE) & (self._col["touched"] != 0)
            for slot in np.flatnonzero(warm):
                self._map.madvise(
                    mmap.MADV_REMOVE, self.geometry.slot_offset(int(slot)), self.geometry.slot_bytes
                )
                self._col["touched"][slot] = 0
                given += self.geometry.slot_bytes
        return given
