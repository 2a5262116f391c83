"""The 16-byte descriptor and the layouts shared with the kernel programs.

Why: functions hand each other *names* of objects in shared memory, never the
objects. This module mirrors ``ebpf/include/lifl_wire.h``, which is the one
definition; ``tests/contract/test_wire_header.py`` compiles the header and
compares every constant, size and offset.

It must not do I/O, and must not know what an object holds.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from lifl.errors import ConfigError, WireError

WIRE_VERSION = 1
PAGE_BYTES = 4096
MAX_MEMBERS = 64
MAX_RUN = 0xFFFF


class Opcode(enum.IntEnum):
    """What the receiver of a descriptor should do."""

    OBJECT = 1
    FLUSH = 2
    WAKE = 3


class Kind(enum.IntEnum):
    """What an endpoint is."""

    AGENT = 1
    GATEWAY = 2
    AGGREGATOR = 3
    COORDINATOR = 4


class RouteType(enum.IntEnum):
    """Where a route leads."""

    NONE = 0
    ENDPOINT = 1
    GROUP = 2


class DropReason(enum.IntEnum):
    """Why a descriptor was not delivered; numbers are stable."""

    NONE = 0
    BAD_SIZE = 1
    BAD_VERSION = 2
    BAD_OPCODE = 3
    NO_IDENTITY = 4
    NO_ROUTE = 5
    NO_MEMBER = 6
    DOMAIN = 7
    DESTINATION_GONE = 8
    DESTINATION_FULL = 9


DESCRIPTOR = struct.Struct("<BBHIII")
IDENTITY = struct.Struct("<IIIHHI")
ENDPOINT = struct.Struct("<II")
ROUTE = struct.Struct("<II")
GROUP = struct.Struct(f"<II{MAX_MEMBERS}I{MAX_MEMBERS}I")
COUNTERS = struct.Struct("<QQQQQ")
DESCRIPTOR_BYTES = DESCRIPTOR.size


class Descriptor(NamedTuple):
    """One hop's message: an opcode and the object it speaks of.

    ``pages`` is the object's size in units of :data:`PAGE_BYTES`, rounded up;
    the kernel counts bytes with it and nothing else depends on it.
    """

    opcode: Opcode
    slot: int
    generation: int
    assignment: int
    pages: int = 0

    def pack(self) -> bytes:
        """Return the 16 bytes that cross the kernel."""
        return DESCRIPTOR.pack(
            WIRE_VERSION, self.opcode, self.slot, self.generation, self.assignment, self.pages
        )

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> Descriptor:
        """Read one descriptor.

        Raises
        ------
        WireError
            if ``raw`` is not 16 bytes of this version with a known opcode.
        """
        if len(raw) != DESCRIPTOR_BYTES:
            raise WireError(f"a descriptor is {DESCRIPTOR_BYTES} bytes, not {len(raw)}")
        version, opcode, slot, generation, assignment, pages = DESCRIPTOR.unpack(raw)
        if version != WIRE_VERSION:
            raise WireError(f"descriptor version {version}; this program speaks {WIRE_VERSION}")
        try:
            return cls(Opcode(opcode), slot, generation, assignment, pages)
        except ValueError:
            raise WireError(f"unknown opcode {opcode} in a descriptor") from None


class Share(NamedTuple):
    """A group's member, and how many descriptors it gets in a row when it is its turn."""

    endpoint: int
    run: int = 1


def check_group(group: int, members: Sequence[Share]) -> None:
    """Raise ConfigError if there are more members, or longer runs, than a group can have."""
    if len(members) > MAX_MEMBERS:
        raise ConfigError(f"group {group} has {len(members)} members; {MAX_MEMBERS} at most")
    if odd := [m for m in members if not 1 <= m.run <= MAX_RUN]:
        raise ConfigError(f"group {group}: {odd[0]}: runs are 1 to {MAX_RUN}")


def unpack_many(raw: bytes) -> list[Descriptor]:
    """Split bytes read from a data socket into descriptors (16 bytes each)."""
    if len(raw) % DESCRIPTOR_BYTES:
        raise WireError(f"{len(raw)} bytes are not a whole number of descriptors")
    return [
        Descriptor.unpack(raw[i : i + DESCRIPTOR_BYTES])
        for i in range(0, len(raw), DESCRIPTOR_BYTES)
    ]


def pages_of(nbytes: int) -> int:
    """Return how many pages ``nbytes`` take, rounded up."""
    return -(-nbytes // PAGE_BYTES)
