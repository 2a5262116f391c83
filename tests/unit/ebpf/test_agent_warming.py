"""Pages are made ahead piece by piece, as many as a plan needs and the budget lets."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ebpf.agent import warming
from ebpf.agent.warming import Warming, slots_needed
from lifl.store import Pool, PoolGeometry, SlotKind

SLOT = 4096 * 4
GEOMETRY = PoolGeometry(slots=6, float_bytes=SLOT - 4096, meta_bytes=4096)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(warming, "PIECE_BYTES", SLOT // 2)
    found = Pool.create("warm", GEOMETRY)
    yield found
    found.close()


def allocated(pool: Pool) -> int:
    return os.fstat(pool.fd).st_blocks * 512


def drive(due: Warming, pool: Pool, budget: int = 1 << 30) -> int:
    made = 0
    while piece := due.step(pool, budget - made):
        made += piece
    return made


def test_as_many_slots_as_needed_get_their_pages(pool: Pool) -> None:
    before, due = allocated(pool), Warming(goal=3)
    assert drive(due, pool) == 3 * SLOT
    assert pool.warm_slots() == 3
    assert allocated(pool) - before == 3 * SLOT
    assert not due.due(pool)
    assert drive(due, pool) == 0


def test_no_more_than_the_budget_is_made(pool: Pool) -> None:
    assert drive(Warming(goal=6), pool, budget=SLOT + SLOT // 2) == SLOT + SLOT // 2
    assert pool.warm_slots() == 1


def test_a_slot_that_is_used_meanwhile_counts_and_is_left_alone(pool: Pool) -> None:
    due = Warming(goal=2)
    assert due.step(pool, 1 << 30) == SLOT // 2
    ref = pool.reserve(SlotKind.UPDATE, 1, 1, ingest=True)
    assert ref.slot == 0
    pool.floats(0)[:] = 1.0
    drive(due, pool)
    assert (pool.floats(0) == 1.0).all()


def test_content_is_not_touched(pool: Pool) -> None:
    pool.floats(0)[:] = 7.0
    drive(Warming(goal=6), pool)
    assert (pool.floats(0) == 7.0).all()


def test_without_memory_it_gives_up(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pool, "make_pages", fail)
    due = Warming(goal=2)
    assert due.step(pool, 1 << 30) == 0
    assert not due.due(pool)


def test_what_a_plan_needs() -> None:
    assert slots_needed(expected=10, aggregators=3, slots=100) == 10 + 6 + 4
    assert slots_needed(expected=10, aggregators=3, slots=12) == 12
