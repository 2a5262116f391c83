"""How a pool's memory is divided: header, slot table, role rows, slots.

Why: every process of a domain maps the same memfd, so its layout is a
contract. A slot is ``[meta area][float area]``; the float area starts on a page
(so 64-byte aligned, which the sum kernel needs to run at memory speed), and
whatever precedes the floats in a document is right-justified into the meta area.

It must not touch memory: sizes, offsets and dtypes only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lifl.errors import ConfigError
from lifl.wire import PAGE_BYTES

MAGIC = 0x4C_49_46_4C_50_4F_4F_4C  # "LIFLPOOL"
LAYOUT_VERSION = 1
NOT_COVERED = -1
MAX_SLOTS = 65535  # a descriptor names a slot in 16 bits
READER_LANES = 64  # lanes that may pin objects: one bit each


class SlotKind(enum.IntEnum):
    """What an object is for; the store treats all alike."""

    UPDATE = 1
    PARTIAL = 2
    MODEL = 3


class SlotState(enum.IntEnum):
    """The life of a slot.

    FREE → WRITING (reserve) → SEALED (seal) → TAKEN (take) → FREE (covered or
    released). A model is read by many: SEALED → RETIRED → FREE when unpinned.
    """

    FREE = 0
    WRITING = 1
    SEALED = 2
    TAKEN = 3
    RETIRED = 4


class SlotRef(NamedTuple):
    """The name of an object: a slot and the generation it must still have."""

    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class PoolGeometry:
    """The sizes of a pool, in bytes where not counted.

    ``float_bytes`` and ``meta_bytes`` are multiples of 4096; ``lanes`` is how
    many functions may have a role row.
    """

    slots: int
    float_bytes: int
    meta_bytes: int
    lanes: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= MAX_SLOTS:
            raise ConfigError(f"a pool has 1 to {MAX_SLOTS} slots, not {self.slots}")
        for name in ("float_bytes", "meta_bytes"):
            value = getattr(self, name)
            if value <= 0 or value % PAGE_BYTES:
                raise ConfigError(f"pool {name} is a positive multiple of {PAGE_BYTES}: {value}")
        if not 1 <= self.lanes <= 4096:
            raise ConfigError(f"a pool has 1 to 4096 lanes, not {self.lanes}")

    @property
    def slot_bytes(self) -> int:
        """Return the size of one slot."""
        return self.meta_bytes + self.float_bytes

    @property
    def table_offset(self) -> int:
        """Return where the slot table starts."""
        return PAGE_BYTES

    @property
    def roles_offset(self) -> int:
        """Return where the role rows start."""
        return self.table_offset + _round(self.slots * SLOT.itemsize)

    @property
    def data_offset(self) -> int:
        """Return where slot 0 starts."""
        return self.roles_offset + _round(self.lanes * ROLE.itemsize)

    @property
    def total_bytes(self) -> int:
        """Return the size of the memfd."""
        return self.data_offset + self.slots * self.slot_bytes

    def slot_offset(self, slot: int) -> int:
        """Return where a slot starts in the memfd."""
        return self.data_offset + slot * self.slot_bytes


def _round(nbytes: int) -> int:
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


HEADER = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u4"),
        ("slots", "<u4"),
        ("float_bytes", "<u8"),
        ("meta_bytes", "<u8"),
        ("lanes", "<u4"),
        ("reserved", "<u4"),
        ("peak", "<u4"),
        ("pad", "<u4"),
        ("clock", "<u8"),
    ]
)

SLOT = np.dtype(
    {
        "names": [
            "state",
            "kind",
            "generation",
            "owner",
            "holder",
            "assignment",
            "base_version",
            "cover_count",
            "layout",
            "covered_slot",
            "covered_generation",
            "pages",
            "serial",
            "weight",
            "doc_start",
            "doc_bytes",
            "sealed_ns",
            "touched",
            "readers",
        ],
        "formats": ["<u4"] * 9 + ["<i4", "<u4", "<u4", "<u8", "<f8"] + ["<u8"] * 5,
        "itemsize": 128,
    }
)

ROLE = np.dtype(
    {
        "names": [
            "assignment",
            "epoch",
            "goal",
            "timing",
            "final",
            "parent_remote",
            "lo",
            "hi",
            "added",
            "waited_ns",
            "busy_ns",
        ],
        "formats": ["<u4"] * 6 + ["<u8"] * 5,
        "itemsize": 64,
    }
)


class Work(NamedTuple):
    """What an aggregator has done since it registered.

    ``added`` client updates, which spent ``waited_ns`` altogether from their seal until
    they were in the sum, ``busy_ns`` of that being added.
    """

    added: int
    waited_ns: int
    busy_ns: int


class SlotEntry(NamedTuple):
    """A snapshot of one row of the slot table.

    ``weight`` is Σ n of what the object holds; ``doc_start`` and ``doc_bytes``
    say where in the slot the document lies; ``layout`` is 0 for a canonical
    float32 document, 1 when its header must be read, 2 when a partial holds a
    mean instead of a sum. ``sealed_ns`` is CLOCK_MONOTONIC.
    """

    state: SlotState
    kind: SlotKind
    generation: int
    owner: int
    holder: int
    assignment: int
    base_version: int
    cover_count: int
    layout: int
    pages: int
    serial: int
    weight: float
    doc_start: int
    doc_bytes: int
    sealed_ns: int


class RoleRow(NamedTuple):
    """What the agent tells one aggregator about its part in an assignment.

    ``goal`` is how many client updates its output should cover, a hint;
    ``timing`` 0 is eager, 1 lazy; ``final`` asks for the mean; ``[lo, hi)`` is the
    element range, ``hi`` 0 meaning to the end;
    ``parent_remote`` says the output leaves the node through the gateway.
    """

    assignment: int
    epoch: int
    goal: int
    timing: int
    final: bool
    lo: int = 0
    hi: int = 0
    parent_remote: bool = False
