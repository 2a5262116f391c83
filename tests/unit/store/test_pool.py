"""The life of a slot, one process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.errors import (
    AlreadyTaken,
    ConfigError,
    Fenced,
    PoolDamaged,
    PoolFull,
    StaleObject,
)
from lifl.store import (
    Pool,
    PoolGeometry,
    RoleRow,
    Seal,
    SlotKind,
    SlotRef,
    SlotState,
)

GATEWAY, LEAF, TOP, COORDINATOR = 1, 2, 3, 99


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool.create("test", PoolGeometry(slots=4, float_bytes=8192, meta_bytes=4096))
    yield pool
    pool.close()


def update(pool: Pool, serial: int = 1, weight: float = 1.0) -> SlotRef:
    ref = pool.reserve(SlotKind.UPDATE, GATEWAY, 7, ingest=True)
    pool.seal(ref, GATEWAY, Seal(serial, weight, 4096, 8192))
    return ref


def test_an_object_is_invisible_until_sealed(pool: Pool) -> None:
    ref = pool.reserve(SlotKind.UPDATE, GATEWAY, 7)
    with pytest.raises(StaleObject):
        pool.take(ref, LEAF)
    pool.seal(ref, GATEWAY, Seal(5, 12.0, 4000, 100, base_version=3))
    entry = pool.take(ref, LEAF)
    assert (entry.serial, entry.weight, entry.base_version) == (5, 12.0, 3)
    assert (entry.assignment, entry.pages, entry.state) == (7, 1, SlotState.TAKEN)


def test_a_second_descriptor_finds_the_object_taken(pool: Pool) -> None:
    ref = update(pool)
    pool.take(ref, LEAF)
    with pytest.raises(AlreadyTaken):
        pool.take(ref, LEAF)
    pool.release(ref, LEAF)
    with pytest.raises(StaleObject):
        pool.take(ref, LEAF)


def test_a_stale_generation_is_refused(pool: Pool) -> None:
    old = update(pool)
    pool.discard(old)
    new = update(pool)
    assert new.slot == old.slot
    assert new.generation != old.generation
    for refuse in (lambda: pool.take(old, LEAF), lambda: pool.discard(old)):
        with pytest.raises(StaleObject):
            refuse()
    pool.take(new, LEAF)


def test_the_most_recently_freed_slot_is_reused_first(pool: Pool) -> None:
    refs = [update(pool, serial) for serial in range(4)]
    for ref in (refs[2], refs[0], refs[3]):
        pool.discard(ref)
    assert [update(pool).slot for _ in range(3)] == [refs[3].slot, refs[0].slot, refs[2].slot]


def test_ingest_leaves_reserved_slots_to_outputs(pool: Pool) -> None:
    pool.reserved = 2
    update(pool)
    update(pool)
    with pytest.raises(PoolFull) as caught:
        update(pool)
    assert caught.value.retry_after > 0
    pool.reserve(SlotKind.PARTIAL, LEAF, 7)
    pool.reserve(SlotKind.PARTIAL, LEAF, 7)
    with pytest.raises(PoolFull):
        pool.reserve(SlotKind.PARTIAL, LEAF, 7)
    assert (pool.usage().peak_in_use, pool.usage().kept) == (4, 2)


def test_an_output_that_has_its_slot_is_not_reserved_for_again() -> None:
    """Eight clients, four leaves and a top, a pool of 24: a burst must not look like pressure."""
    geometry = PoolGeometry(slots=24, float_bytes=4096, meta_bytes=4096)
    with closing(Pool.create("burst", geometry)) as pool:
        pool.reserved = 12
        pool.reserve(SlotKind.MODEL, COORDINATOR, 7)
        for serial in range(8):
            update(pool, serial)
        for leaf in range(4):
            pool.reserve(SlotKind.PARTIAL, LEAF + leaf, 7)
        assert (pool.usage().free, pool.usage().kept, pool.scarce) == (11, 8, False)
        for remote in range(4):  # partials of other nodes: at least one slot each stays for outputs
            pool.reserve(SlotKind.PARTIAL, GATEWAY + remote, 7)
        assert (pool.usage().free, pool.usage().kept, pool.scarce) == (7, 7, True)
        with pytest.raises(PoolFull):
            update(pool)


@given(
    roles=st.integers(1, 12),
    slots=st.integers(8, 60),
    steps=st.lists(st.tuples(st.sampled_from(["ingest", "open", "seal"]), st.integers(0, 11))),
)
def test_ingest_never_takes_the_slot_that_an_output_needs(
    roles: int, slots: int, steps: list[tuple[str, int]]
) -> None:
    """Whatever order things come in: who has no output open finds a slot for it."""
    with closing(Pool.create("p", PoolGeometry(slots, 4096, 4096))) as pool:
        pool.reserved = reserved = min(2 * roles + 2, slots // 2)
        sure = (reserved - 2) // 2  # aggregators that are sure to have one
        outputs: dict[int, SlotRef] = {}
        for step, which in steps:
            who = which % roles
            if step == "ingest":
                with suppress(PoolFull):
                    pool.reserve(SlotKind.UPDATE, GATEWAY, 7, ingest=True)
            elif step == "open" and who not in outputs and len(outputs) < sure:
                outputs[who] = pool.reserve(SlotKind.PARTIAL, 100 + who, 7)  # must not raise
            elif step == "seal" and who in outputs:
                pool.drop(outputs.pop(who), 100 + who)  # as much room as its inputs leave


def test_sealing_an_output_frees_what_it_covers(pool: Pool) -> None:
    inputs = [update(pool, serial) for serial in (11, 12)]
    for ref in inputs:
        pool.take(ref, LEAF)
    out = pool.reserve(SlotKind.PARTIAL, LEAF, 7)
    pool.floats(out.slot)[:] = 3.0
    pool.seal(out, LEAF, Seal(99, 2.0, 4096, 8192, cover=[11, 12], inputs=inputs))
    assert pool.find(state=SlotState.TAKEN) == []
    assert pool.find(state=SlotState.SEALED, kind=SlotKind.PARTIAL) == [out]
    assert pool.cover(out.slot).tolist() == [11, 12]
    assert pool.usage().free == 3


def test_a_fenced_function_cannot_seal_and_changes_nothing(pool: Pool) -> None:
    ref = update(pool, 11)
    pool.take(ref, LEAF)
    out = pool.reserve(SlotKind.PARTIAL, LEAF, 7)
    recovery = pool.recover(LEAF)
    assert recovery.fenced == [out]
    [again] = recovery.redispatch
    assert again.slot == ref.slot
    assert again.generation != ref.generation
    with pytest.raises(Fenced):
        pool.seal(out, LEAF, Seal(99, 1.0, 4096, 8192, cover=[11], inputs=[ref]))
    pool.take(again, TOP)
    assert pool.entry(again.slot).holder == TOP


def test_a_zombie_whose_input_was_given_away_cannot_seal_its_own_output(pool: Pool) -> None:
    ref = update(pool, 11)
    pool.take(ref, LEAF)
    pool.recover(LEAF)
    out = pool.reserve(SlotKind.PARTIAL, LEAF, 7)
    with pytest.raises(Fenced):
        pool.seal(out, LEAF, Seal(99, 1.0, 4096, 8192, cover=[11], inputs=[ref]))
    assert pool.entry(out.slot).state is SlotState.WRITING


def test_untake_puts_an_object_back_under_the_same_name(pool: Pool) -> None:
    ref = update(pool)
    pool.take(ref, LEAF)
    with pytest.raises(Fenced):
        pool.untake(ref, TOP)
    pool.untake(ref, LEAF)
    pool.take(ref, TOP)


def test_a_retired_model_lives_until_its_last_reader_goes(pool: Pool) -> None:
    ref = pool.reserve(SlotKind.MODEL, TOP, 0)
    pool.seal(ref, TOP, Seal(1, 0.0, 4096, 8192))
    pool.pin(ref, 0)
    pool.pin(ref, 63)
    pool.retire(ref)
    with pytest.raises(StaleObject):
        pool.pin(ref, 1)
    pool.unpin(ref, 0)
    assert pool.usage().retired == 1
    pool.unpin(ref, 63)
    assert pool.usage().free == 4
    pool.unpin(ref, 63)


def test_a_dead_readers_pins_are_taken_back(pool: Pool) -> None:
    ref = pool.reserve(SlotKind.MODEL, TOP, 0)
    pool.seal(ref, TOP, Seal(1, 0.0, 4096, 8192))
    pool.pin(ref, 5)
    pool.retire(ref)
    pool.recover(GATEWAY, lane=5)
    assert pool.usage().free == 4


def test_only_reader_lanes_may_pin(pool: Pool) -> None:
    with pytest.raises(ConfigError):
        pool.pin(SlotRef(0, 1), 64)


def test_roles_are_read_as_written(pool: Pool) -> None:
    row = RoleRow(7, 2, 5, 1, True, 10, 20, True)
    pool.write_role(255, row)
    assert pool.read_role(255) == row
    assert pool.read_role(254).assignment == 0


def test_another_mapping_sees_the_same_objects(pool: Pool) -> None:
    ref = update(pool, 42)
    pool.floats(ref.slot)[:] = np.arange(2048, dtype=np.float32)
    other = Pool.attach(os.dup(pool.fd))
    assert other.geometry == pool.geometry
    assert other.take(ref, LEAF).serial == 42
    assert other.floats(ref.slot)[2047] == 2047
    with pytest.raises(AlreadyTaken):
        pool.take(ref, TOP)
    other.close()


def test_the_float_area_is_aligned_for_the_sum_kernel(pool: Pool) -> None:
    assert all(pool.floats(slot).ctypes.data % 64 == 0 for slot in range(4))
    assert len(pool.slot_bytes(0)) == len(pool.meta(0)) + pool.floats(0).nbytes


def test_free_slots_give_their_pages_back() -> None:
    geometry = PoolGeometry(slots=4, float_bytes=1 << 20, meta_bytes=4096)
    pool = Pool.create("test", geometry, prefault_slots=4)
    before = os.fstat(pool.fd).st_blocks * 512
    keep = update(pool)
    pool.floats(keep.slot)[:] = 1.0
    given = pool.punch()
    assert given == 3 * geometry.slot_bytes
    assert os.fstat(pool.fd).st_blocks * 512 == before - given
    assert pool.floats(keep.slot).sum() == geometry.float_bytes / 4
    pool.close()


def test_the_memory_can_be_neither_shrunk_nor_grown(pool: Pool) -> None:
    for size in (4096, pool.geometry.total_bytes + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(pool.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(pool.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_what_is_not_a_pool_is_refused() -> None:
    fd = os.memfd_create("other")
    with pytest.raises(ConfigError):
        Pool.attach(fd)
    os.close(fd)


@pytest.mark.parametrize(
    "geometry",
    [(0, 4096, 4096), (65536, 4096, 4096), (4, 100, 4096), (4, 4096, 0)],
)
def test_unusable_geometries_are_refused(geometry: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError):
        PoolGeometry(*geometry)


@pytest.mark.parametrize(("column", "value"), [("state", 5), ("state", 0xFFFFFFFF), ("kind", 9)])
def test_a_row_that_makes_no_sense_is_named(pool: Pool, column: str, value: int) -> None:
    ref = update(pool)
    pool._col[column][ref.slot] = value
    with pytest.raises(PoolDamaged, match=f"slot {ref.slot}"):
        pool.entry(ref.slot)
    assert sum(pool.usage()[1:6]) <= pool.geometry.slots


def test_a_cover_larger_than_its_object_is_not_read(pool: Pool) -> None:
    ref = pool.reserve(SlotKind.PARTIAL, LEAF, 7)
    pool.seal(ref, LEAF, Seal(1, 1.0, 4096, 8192, cover=[1, 2]))
    assert pool.cover(ref.slot).tolist() == [1, 2]
    pool._col["cover_count"][ref.slot] = 0xFFFFFFFF
    with pytest.raises(PoolDamaged, match="cover"):
        pool.cover(ref.slot)


@pytest.mark.parametrize("output", [-2, 4, 0x7FFFFFFF])
def test_an_input_covered_by_no_slot_is_no_input(pool: Pool, output: int) -> None:
    ref = update(pool)
    pool.take(ref, LEAF)
    pool._col["covered_slot"][ref.slot] = output
    with pytest.raises(PoolDamaged, match=f"slot {ref.slot}"):
        pool.recover(LEAF)
