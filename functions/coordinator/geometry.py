"""How large a job's pool is.

Why: slots are fixed in size and number when the domain is made, so they follow
from the job and the model, not from traffic. It must not make a pool.
"""

from __future__ import annotations

from pathlib import Path

from functions.coordinator.selection import SelectionRules
from lifl.store import PoolGeometry
from lifl.update import Schema
from lifl.wire import PAGE_BYTES

MIN_SLOTS = 8
SPARE_SLOTS = 16
"""Slots for partials, two model versions and uploads that begin before others have ended."""
MAX_SLOTS = 65535
SERIAL_BYTES = 8


def geometry(
    schema: Schema, rules: SelectionRules, available: int, slots: int | None
) -> PoolGeometry:
    """Return the pool's sizes.

    A slot holds a canonical document, or a partial whose cover may name every
    update of a round twice over. By default there are two slots per client, but
    no more than a quarter of ``available`` bytes of memory takes; ``slots``, if
    given, decides.
    """
    wanted = rules.wanted
    cover_bytes = SERIAL_BYTES * max(2 * wanted, 1024)
    meta_bytes = _pages(cover_bytes + schema.float_start)
    float_bytes = _pages(schema.float_bytes)
    if slots is None:
        affordable = available // 4 // (meta_bytes + float_bytes)
        slots = min(max(MIN_SLOTS, min(2 * wanted + SPARE_SLOTS, affordable)), MAX_SLOTS)
    return PoolGeometry(slots, float_bytes, meta_bytes)


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes that programs could still use without swapping."""
    for line in meminfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError(f"{meminfo} has no MemAvailable")


def _pages(nbytes: int) -> int:
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES
