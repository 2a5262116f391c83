"""The leases on a pool's slots: reserve, seal, take, release, recover.

Why: the slot table is the truth of who holds what; a descriptor is a hint. Freed
slots are reused hot first, since their pages are already there. The seal of an
output is the one commit point: inputs are first marked with the output that
covers them, then the output is sealed, then the inputs are freed, so that after
a death at any instruction :meth:`Pool.recover` can tell whether an input counts.

It must not know what a model is, who may send what to whom, or when a slot
ought to be freed: those are policies handed in.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lifl.errors import AlreadyTaken, ConfigError, Fenced, PoolDamaged, PoolFull, StaleObject
from lifl.store.layout import (
    NOT_COVERED,
    READER_LANES,
    SlotEntry,
    SlotKind,
    SlotRef,
    SlotState,
)
from lifl.store.table import PoolTable
from lifl.wire import pages_of

_FREE, _WRITING, _SEALED, _TAKEN, _RETIRED = (int(s) for s in SlotState)


@dataclass(frozen=True, slots=True)
class Seal:
    """What is said of an object when it is sealed.

    ``weight`` is Σ n; ``cover`` are the serials of the updates in a partial;
    ``inputs`` are taken objects that the sealed one makes obsolete.
    """

    serial: int
    weight: float
    doc_start: int
    doc_bytes: int
    layout: int = 0
    base_version: int = 0
    cover: Sequence[int] | npt.NDArray[np.uint64] = ()
    inputs: Sequence[SlotRef] = ()


@dataclass(slots=True)
class Recovery:
    """What became of a dead function's leases."""

    redispatch: list[SlotRef] = field(default_factory=list)
    freed: list[SlotRef] = field(default_factory=list)
    fenced: list[SlotRef] = field(default_factory=list)


class Pool(PoolTable):
    """A mapped pool. Safe for several threads; one object per process and pool."""

    # -- writers --------------------------------------------------------------

    def reserve(
        self, kind: SlotKind, owner: int, assignment: int, *, ingest: bool = False
    ) -> SlotRef:
        """Take a free slot for writing, the most recently used first.

        ``ingest`` leaves the slots that outputs need alone (:attr:`kept`).

        Raises
        ------
        PoolFull
            if there is none.
        """
        col = self._col
        with self.lock:
            free = np.flatnonzero(col["state"] == _FREE)
            keep = self.kept if ingest else 0
            if len(free) <= keep:
                raise PoolFull(
                    f"all {self.geometry.slots - keep} slots for {kind.name.lower()}s are in use",
                    retry_after=1.0,
                )
            slot = int(free[np.argmax(col["touched"][free])])
            col["kind"][slot] = kind
            col["owner"][slot] = owner
            col["holder"][slot] = 0
            col["assignment"][slot] = assignment
            col["covered_slot"][slot] = NOT_COVERED
            col["readers"][slot] = 0
            col["cover_count"][slot] = 0
            col["state"][slot] = _WRITING
            in_use = self.geometry.slots - len(free) + 1
            self._header["peak"] = max(int(self._header["peak"]), in_use)
            return SlotRef(slot, int(col["generation"][slot]))

    def seal(self, ref: SlotRef, owner: int, seal: Seal) -> None:
        """Make an object visible and immutable, and free the inputs it covers.

        Raises
        ------
        Fenced
            if the lease on the slot or on an input was taken back; nothing changes.
        ConfigError
            if the cover does not fit the meta area.
        """
        col, slot = self._col, ref.slot
        cover = np.asarray(seal.cover, np.uint64)
        if cover.nbytes > self.geometry.meta_bytes:
            raise ConfigError(f"a cover of {len(cover)} updates does not fit the meta area")
        with self.lock:
            self._own(ref, owner)
            for item in seal.inputs:
                self._held(item, owner)
            if len(cover):
                np.frombuffer(self.meta(slot), np.uint64, len(cover))[:] = cover
            col["cover_count"][slot] = len(cover)
            col["serial"][slot] = seal.serial
            col["weight"][slot] = seal.weight
            col["doc_start"][slot] = seal.doc_start
            col["doc_bytes"][slot] = seal.doc_bytes
            col["layout"][slot] = seal.layout
            col["base_version"][slot] = seal.base_version
            col["pages"][slot] = pages_of(seal.doc_bytes)
            col["sealed_ns"][slot] = time.monotonic_ns()
            for item in seal.inputs:
                col["covered_generation"][item.slot] = ref.generation
                col["covered_slot"][item.slot] = slot
            col["state"][slot] = _SEALED
            for item in seal.inputs:
                self._free(item.slot)

    def drop(self, ref: SlotRef, owner: int) -> None:
        """Give up a slot that was being written; raises Fenced if it was taken back."""
        with self.lock:
            self._own(ref, owner)
            self._free(ref.slot)

    # -- readers --------------------------------------------------------------

    def take(self, ref: SlotRef, holder: int) -> SlotEntry:
        """Become the one consumer of a sealed object.

        Raises
        ------
        AlreadyTaken
            if somebody (perhaps the caller) holds it: a second descriptor.
        StaleObject
            if the slot has another generation or is not sealed.
        """
        col, slot = self._col, ref.slot
        with self.lock:
            self._current(ref)
            state = int(col["state"][slot])
            if state == _TAKEN:
                raise AlreadyTaken(f"slot {slot} is held by endpoint {col['holder'][slot]}")
            if state != _SEALED:
                raise StaleObject(f"slot {slot} is {SlotState(state).name}, not SEALED")
            col["holder"][slot] = holder
            col["covered_slot"][slot] = NOT_COVERED
            col["state"][slot] = _TAKEN
            return self.entry(slot)

    def untake(self, ref: SlotRef, holder: int) -> None:
        """Put a taken object back, unused; raises Fenced if the lease was taken back."""
        with self.lock:
            self._held(ref, holder)
            self._col["holder"][ref.slot] = 0
            self._col["sealed_ns"][ref.slot] = time.monotonic_ns()
            self._col["state"][ref.slot] = _SEALED

    def release(self, ref: SlotRef, holder: int) -> None:
        """Free a taken object that was consumed elsewhere; raises Fenced."""
        with self.lock:
            self._held(ref, holder)
            self._free(ref.slot)

    def discard(self, ref: SlotRef) -> None:
        """Free a sealed object nobody wants any more; raises StaleObject."""
        with self.lock:
            self._current(ref)
            if int(self._col["state"][ref.slot]) != _SEALED:
                raise StaleObject(f"slot {ref.slot} is not SEALED")
            self._free(ref.slot)

    def pin(self, ref: SlotRef, lane: int) -> SlotEntry:
        """Keep a sealed object from being freed while lane ``lane`` (< 64) reads it.

        Raises
        ------
        StaleObject
            if it is no longer there, or retired.
        """
        self._check_lane(lane)
        with self.lock:
            self._current(ref)
            if int(self._col["state"][ref.slot]) != _SEALED:
                raise StaleObject(f"slot {ref.slot} is not SEALED")
            self._col["readers"][ref.slot] |= np.uint64(1 << lane)
            return self.entry(ref.slot)

    def unpin(self, ref: SlotRef, lane: int) -> None:
        """Take the pin back; frees a retired object when it was the last one."""
        self._check_lane(lane)
        with self.lock:
            if int(self._col["generation"][ref.slot]) == ref.generation:
                self._unpin(ref.slot, lane)

    def retire(self, ref: SlotRef) -> None:
        """Let no new reader at an object; it is freed when the last pin goes."""
        with self.lock:
            self._current(ref)
            if int(self._col["state"][ref.slot]) != _SEALED:
                raise StaleObject(f"slot {ref.slot} is not SEALED")
            self._col["state"][ref.slot] = _RETIRED
            if not self._col["readers"][ref.slot]:
                self._free(ref.slot)

    # -- the dead -------------------------------------------------------------

    def recover(self, endpoint: int, lane: int | None = None, *, alive: bool = False) -> Recovery:
        """Take a function's leases back; agent only.

        An input it held is freed if a sealed output covers it, else sealed again
        under a new generation (``redispatch``); what it was writing is void
        (``fenced``), so that the function, should it still live, cannot seal.
        ``lane`` also takes its pins back. If the function may be ``alive`` its
        stores may still land in what it was writing: those slots stay RETIRED until
        a second call, after its end, frees them.
        """
        col = self._col
        result = Recovery()
        with self.lock:
            for slot in np.flatnonzero((col["state"] == _TAKEN) & (col["holder"] == endpoint)):
                if self._committed(int(slot)):
                    result.freed.append(self._free(int(slot)))
                else:
                    self._bump(int(slot))
                    col["holder"][slot] = 0
                    col["covered_slot"][slot] = NOT_COVERED
                    col["sealed_ns"][slot] = time.monotonic_ns()
                    col["state"][slot] = _SEALED
                    result.redispatch.append(SlotRef(int(slot), int(col["generation"][slot])))
            for slot in np.flatnonzero((col["state"] == _WRITING) & (col["owner"] == endpoint)):
                result.fenced.append(self._void(int(slot)) if alive else self._free(int(slot)))
            if not alive:
                void = (col["state"] == _RETIRED) & (col["owner"] == endpoint)
                for slot in np.flatnonzero(void & (col["readers"] == 0)):
                    self._free(int(slot))
            if lane is not None and lane < READER_LANES:
                for slot in np.flatnonzero(col["readers"] & np.uint64(1 << lane)):
                    self._unpin(int(slot), lane)
        return result

    # -- under the lock -------------------------------------------------------

    def _committed(self, slot: int) -> bool:
        """Whether the output that an input was marked with got sealed.

        An output is freed or fenced only after its seal or by :meth:`recover`,
        which looks at the inputs first; so anything but "still being written
        under that generation" means it was sealed.
        """
        col = self._col
        output = int(col["covered_slot"][slot])
        if output == NOT_COVERED:
            return False
        if not 0 <= output < self.geometry.slots:
            raise PoolDamaged(f"slot {slot} of the table is covered by slot {output}")
        same = col["generation"][output] == col["covered_generation"][slot]
        return not (same and col["state"][output] == _WRITING)

    def _current(self, ref: SlotRef) -> None:
        if not 0 <= ref.slot < self.geometry.slots:
            raise StaleObject(f"there is no slot {ref.slot}")
        if int(self._col["generation"][ref.slot]) != ref.generation:
            raise StaleObject(
                f"slot {ref.slot} has generation {self._col['generation'][ref.slot]}, "
                f"not {ref.generation}"
            )

    def _own(self, ref: SlotRef, owner: int) -> None:
        self._lease(ref, "owner", owner, _WRITING)

    def _held(self, ref: SlotRef, holder: int) -> None:
        self._lease(ref, "holder", holder, _TAKEN)

    def _lease(self, ref: SlotRef, column: str, endpoint: int, state: int) -> None:
        col, slot = self._col, ref.slot
        if (
            int(col["generation"][slot]) != ref.generation
            or int(col["state"][slot]) != state
            or int(col[column][slot]) != endpoint
        ):
            raise Fenced(f"endpoint {endpoint} no longer has the lease on slot {slot}")

    def _free(self, slot: int) -> SlotRef:
        col = self._col
        ref = SlotRef(slot, int(col["generation"][slot]))
        col["state"][slot] = _FREE
        self._bump(slot)
        self._header["clock"] += 1
        col["touched"][slot] = self._header["clock"]
        return ref

    def _void(self, slot: int) -> SlotRef:
        ref = SlotRef(slot, int(self._col["generation"][slot]))
        self._bump(slot)
        self._col["state"][slot] = _RETIRED
        return ref

    def _bump(self, slot: int) -> None:
        self._col["generation"][slot] = int(self._col["generation"][slot]) % 0xFFFF_FFFF + 1

    def _unpin(self, slot: int, lane: int) -> None:
        readers = int(self._col["readers"][slot]) & ~(1 << lane)
        self._col["readers"][slot] = readers
        if not readers and int(self._col["state"][slot]) == _RETIRED:
            self._free(slot)

    @staticmethod
    def _check_lane(lane: int) -> None:
        if not 0 <= lane < READER_LANES:
            raise ConfigError(f"lane {lane} may not pin: readers have lanes 0 to 63")
