"""A job's models in shared memory.

Why: gateways serve the model from the pool, so a new version is made straight
in a slot there. It must not know strategies or rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from functions.coordinator.checkpoint import Checkpoints, Floats
from functions.coordinator.records import VersionRecord
from functions.coordinator.strategies import Part
from lifl.errors import Fenced
from lifl.store import Pool, Seal, SlotEntry, SlotKind, SlotRef, SlotState
from lifl.update import Schema, integer_views

NO_ASSIGNMENT = 0
"""Models belong to no assignment, so no assignment's end removes them."""
MEAN_LAYOUT = 2


class Held(NamedTuple):
    """A partial that the coordinator has taken."""

    ref: SlotRef
    entry: SlotEntry
    cover: tuple[int, ...]


class Shelf:
    """One job's models in one pool."""

    def __init__(self, pool: Pool, owner: int, schema: Schema) -> None:
        self._pool = pool
        self._owner = owner
        self._schema = schema
        self._int_at = pool.geometry.meta_bytes - schema.int_bytes
        self.doc_start = self._int_at - schema.int_start
        self.doc_bytes = schema.document_bytes
        self.present: SlotRef | None = None

    def find(self, version: VersionRecord) -> SlotRef | None:
        """Return where ``version`` was left in the pool, if it was; other models there go."""
        self.present = None
        wanted = (version.version, _serial(version), self.doc_bytes)
        for ref in self._pool.find(state=SlotState.SEALED, kind=SlotKind.MODEL):
            entry = self._pool.entry(ref.slot)
            same = (entry.base_version, entry.serial, entry.doc_bytes) == wanted
            if same and self.present is None:
                self.present = ref
            else:
                self._pool.retire(ref)
        return self.present

    def read(self, version: VersionRecord, checkpoints: Checkpoints) -> SlotRef:
        """Have ``version`` sealed in the pool from its checkpoint; raises ConfigError, PoolFull."""
        ref = self.reserve()
        checkpoints.read_model(version.model_file, self.document(ref))
        self.seal(ref, version.version, _serial(version))
        self.show(ref)
        return ref

    @property
    def model(self) -> SlotRef:
        """Return the model that readers get; LookupError if there is none yet."""
        if self.present is None:
            raise LookupError("no model was published yet")
        return self.present

    def reserve(self) -> SlotRef:
        """Take a slot for a new model; raises PoolFull."""
        return self._pool.reserve(SlotKind.MODEL, self._owner, NO_ASSIGNMENT)

    def drop(self, ref: SlotRef) -> None:
        """Give up a model that was being made, or is sealed but was never shown."""
        if self._pool.entry(ref.slot).state is SlotState.SEALED:
            self._pool.retire(ref)
        else:
            self._pool.drop(ref, self._owner)

    def release(self, inputs: Sequence[SlotRef]) -> None:
        """Free partials that are in a version; raises Fenced."""
        for ref in inputs:
            self._pool.release(ref, self._owner)

    def seal(self, ref: SlotRef, version: int, serial: int, inputs: Sequence[SlotRef] = ()) -> None:
        """Make a model immutable, and free the partials in it; raises Fenced."""
        seal = Seal(
            serial=serial,
            weight=0.0,
            doc_start=self.doc_start,
            doc_bytes=self.doc_bytes,
            base_version=version,
            inputs=inputs,
        )
        self._pool.seal(ref, self._owner, seal)

    def show(self, ref: SlotRef) -> None:
        """Make a sealed model the one that readers get, and let no new ones at the one before."""
        before, self.present = self.present, ref
        if before is not None:
            self._pool.retire(before)

    def check(self, ref: SlotRef) -> None:
        """Raise Fenced if the lease on a model that is being made was taken back.

        Then somebody else may have written into the slot meanwhile.
        """
        entry = self._pool.entry(ref.slot)
        mine = (SlotState.WRITING, ref.generation, self._owner)
        if (entry.state, entry.generation, entry.owner) != mine:
            raise Fenced(f"slot {ref.slot} was taken back while a model was made in it")

    def document(self, ref: SlotRef) -> memoryview:
        """Return a model's bytes."""
        whole = self._pool.slot_bytes(ref.slot)
        return whole[self.doc_start : self.doc_start + self.doc_bytes]

    def floats(self, ref: SlotRef) -> Floats:
        """Return an object's float32 vector, ``float_elements`` long."""
        return self._pool.floats(ref.slot)[: self._schema.float_elements]

    def bytes_before(self, elements: int) -> int:
        """Return how many of a model's bytes lie before float ``elements``."""
        return self._schema.float_start + 4 * elements

    def integers(self, ref: SlotRef) -> memoryview:
        """Return an object's integer section."""
        return self._pool.meta(ref.slot)[self._int_at :]

    def parts(self, held: Sequence[Held]) -> list[Part]:
        """Return what partials hold, as the strategies read it."""
        return [
            Part(self.floats(h.ref), h.entry.weight, h.entry.layout == MEAN_LAYOUT) for h in held
        ]

    def fill(self, ref: SlotRef, held: Sequence[Held]) -> None:
        """Write a model's header and integers; these are the elementwise maximum of all parts'."""
        header = self._schema.canonical_header()
        self._pool.meta(ref.slot)[self.doc_start : self.doc_start + len(header)] = header
        target = self.integers(ref)
        first, *others = held
        target[:] = self.integers(first.ref)
        for item in others:
            into = integer_views(target, self._schema)
            source = integer_views(self.integers(item.ref), self._schema)
            for kept, new in zip(into, source, strict=True):
                np.maximum(kept, new, out=kept)


def _serial(version: VersionRecord) -> int:
    """Return what a version's slot is sealed as; records of before say nothing of it."""
    return version.serial or version.version
