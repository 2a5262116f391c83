from __future__ import annotations

import numpy as np
import pytest

from functions.coordinator.geometry import available_memory, geometry
from functions.coordinator.selection import SelectionRules
from lifl.update import Schema

GIB = 1 << 30
SCHEMA = Schema.of({"w": np.zeros(1000, np.float32), "n": np.zeros(3, np.int64)})


def test_slots_hold_a_document_and_a_cover():
    g = geometry(SCHEMA, SelectionRules(10, 1), 64 * GIB, None)
    assert (g.float_bytes, g.meta_bytes % 4096) == (4096, 0)
    assert g.meta_bytes >= 8 * 1024 + SCHEMA.float_start
    assert g.slots == 2 * 10 + 16


def test_large_rounds_have_room_for_their_cover():
    rules = SelectionRules(5000, 1, 0.5)
    g = geometry(SCHEMA, rules, 64 * GIB, None)
    assert g.meta_bytes >= 8 * 2 * 7500 + SCHEMA.float_start
    assert g.slots == 2 * 7500 + 16


def test_a_quarter_of_the_memory_is_the_limit_but_eight_slots_the_least():
    model = Schema.of({"w": np.broadcast_to(np.float32(0), (60 << 20,))})  # 240 MiB
    g = geometry(model, SelectionRules(100, 1), 16 * GIB, None)
    assert g.slots == 17
    assert g.slots * g.slot_bytes <= 4 * GIB
    assert geometry(model, SelectionRules(100, 1), GIB, None).slots == 8


def test_the_job_may_decide():
    assert geometry(SCHEMA, SelectionRules(10, 1), GIB, 77).slots == 77


def test_available_memory(tmp_path):
    assert available_memory() > 0
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 10 kB\nMemAvailable:       7 kB\n")
    assert available_memory(file) == 7 * 1024
    file.write_text("MemTotal: 10 kB\n")
    with pytest.raises(OSError, match="MemAvailable"):
        available_memory(file)
