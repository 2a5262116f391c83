"""Instructions on a real pool: leases, commits, and what goes wrong."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from functions.aggregator.performer import Performer
from functions.aggregator.stats import Stats
from functions.aggregator.steps import Flush, Received, Retry, RoleChanged
from lifl import crash
from lifl.errors import ConfigError, PoolBusy
from lifl.store import RoleRow, Seal, SlotKind, SlotState
from lifl.wire import Descriptor, Opcode


def role(goal=2, timing=0, final=True) -> RoleRow:
    return RoleRow(1, 1, goal, timing, final)


def check_mean(node, schema, reference, updates, samples):
    mean, _, weight, cover = node.collect()
    np.testing.assert_allclose(mean, reference(schema, updates, samples), rtol=1e-5, atol=1e-5)
    assert weight == sum(samples)
    return cover


def test_one_aggregator(node, schema, make_update, reference):
    agg = node.aggregator(role())
    updates = [make_update(1), make_update(2)]
    agg.inbox += [node.upload(updates[0], 3), node.upload(updates[1], 5)]
    node.settle()
    assert check_mean(node, schema, reference, updates, [3, 5]) == {1, 2}
    assert node.states() == {SlotState.FREE}
    assert (agg.stats.objects, agg.stats.partials) == (2, 1)
    assert agg.stats.bytes == 2 * schema.document_bytes


def test_a_partial_is_a_document_with_a_cover(node, schema, make_update):
    agg = node.aggregator(role(goal=3, final=False))
    agg.inbox += [node.upload(make_update(i), 1) for i in (1, 2)]
    node.settle()
    agg.tell(Flush(1))
    (d,) = node.sink
    entry = node.pool.entry(d.slot)
    assert (entry.kind, entry.layout, entry.weight) == (SlotKind.PARTIAL, 0, 2.0)
    assert entry.doc_start + entry.doc_bytes == (node.pool.geometry.meta_bytes + schema.float_bytes)
    whole = node.pool.slot_bytes(d.slot)
    head = schema.canonical_header()
    assert bytes(whole[entry.doc_start :][: len(head)]) == head
    assert 1 << 62 <= entry.serial < 1 << 63
    assert d.pages == entry.pages == -(-entry.doc_bytes // 4096)
    assert (d.opcode, d.assignment) == (Opcode.OBJECT, 1)


def test_what_completes_a_sum_is_added_by_the_next_in_one_pass(
    node, schema, make_update, reference, monkeypatch
):
    leaf, top = node.aggregator(role(final=False)), node.aggregator(role(goal=3))
    leaf.wire.target, top.together = top.inbox, True
    updates = [make_update(i) for i in (1, 2, 3)]
    passes = []
    add = node.kernel.add
    monkeypatch.setattr(node.kernel, "add", lambda t, *a: passes.append(len(t)) or add(t, *a))
    top.inbox.append(node.upload(updates[0], 3))
    node.settle()
    leaf.inbox += [node.upload(updates[1], 5), node.upload(updates[2], 7)]
    node.settle()
    assert passes == [1, 1, 2]
    assert (leaf.stats.updates, leaf.stats.partials) == (1, 1)
    assert (top.stats.updates, top.stats.objects) == (2, 3)
    assert check_mean(node, schema, reference, updates, [3, 5, 7]) == {1, 2, 3}
    assert node.states() == {SlotState.FREE}


def test_what_goes_on_is_not_sent_by_who_has_lost_its_lease(node, make_update, monkeypatch):
    leaf = node.aggregator(role(final=False))
    leaf.inbox.append(node.upload(make_update(1), 3))
    node.settle()
    untake = node.pool.untake

    def late(ref, holder):
        node.pool.recover(leaf.endpoint)
        untake(ref, holder)

    monkeypatch.setattr(node.pool, "untake", late)
    leaf.inbox.append(node.upload(make_update(2), 5))
    node.settle()
    (d,) = node.sink
    assert node.pool.entry(d.slot).kind is SlotKind.PARTIAL
    assert len(node.pool.find(state=SlotState.SEALED, kind=SlotKind.UPDATE)) == 1


def test_halves_and_a_mean_as_inputs(node, schema, make_update, reference):
    low, top = node.aggregator(role()), node.aggregator(role())
    low.wire.target = top.inbox  # a mean goes on: it stands for its whole weight
    updates = [make_update(1), make_update(2, "float16"), make_update(3)]
    low.inbox += [node.upload(updates[0], 3), node.upload(updates[1], 5, layout=1)]
    top.inbox.append(node.upload(updates[2], 7))
    node.settle()
    assert check_mean(node, schema, reference, updates, [3, 5, 7]) == {1, 2, 3}


def test_descriptors_twice_and_stale(node, schema, make_update, reference):
    a, b = node.aggregator(role()), node.aggregator(role())
    d = node.upload(make_update(1), 3)
    a.inbox += [d, d]
    b.inbox += [d, Descriptor(Opcode.OBJECT, d.slot, d.generation + 1, 1)]
    b.inbox.append(Descriptor(Opcode.OBJECT, 60_000, 1, 1))
    node.settle()
    a.tell(Flush(1))
    assert b.machine.open == ()
    assert check_mean(node, schema, reference, [make_update(1)], [3]) == {1}


def test_an_output_that_is_not_delivered_stays_sealed(node, make_update):
    agg = node.aggregator(role(goal=1))
    agg.wire.target = None
    agg.inbox.append(node.upload(make_update(1), 3))
    node.settle()
    assert agg.stats.not_delivered == 1
    (ref,) = node.pool.find(kind=SlotKind.PARTIAL)
    assert node.pool.entry(ref.slot).state is SlotState.SEALED


def test_a_full_pool_puts_inputs_back(node_class, schema, make_update, reference):
    node = node_class(schema, slots=2)
    agg = node.aggregator(role())
    updates = [make_update(1), make_update(2)]
    agg.inbox += [node.upload(updates[0], 3), node.upload(updates[1], 5)]
    node.settle()
    assert node.states() == {SlotState.SEALED}
    assert agg.stats.no_room == 2
    assert agg.performer.retry_at is not None
    second = node.pool.find(state=SlotState.SEALED)[1]
    node.pool.discard(second)
    agg.tell(Retry())
    agg.tell(Flush(1))
    assert check_mean(node, schema, reference, updates[:1], [3]) == {1}
    node.pool.close()


def test_leases_taken_back_void_the_sum_and_nothing_is_written(
    node, schema, make_update, reference
):
    zombie, heir = node.aggregator(role(goal=3)), node.aggregator(role(goal=3))
    updates = [make_update(i) for i in (1, 2, 3)]
    zombie.inbox += [node.upload(updates[0], 3), node.upload(updates[1], 5)]
    node.settle()
    (output,) = node.pool.find(state=SlotState.WRITING)
    recovery = node.pool.recover(zombie.endpoint)
    assert len(recovery.redispatch) == 2
    stranger = node.pool.reserve(SlotKind.UPDATE, 1, 1)
    assert stranger.slot == output.slot
    node.pool.floats(stranger.slot)[:] = 42.0
    third = node.upload(updates[2], 7)
    zombie.inbox.append(third)
    node.settle()
    assert zombie.machine.open == ()
    assert zombie.stats.fenced == 1
    assert np.all(node.pool.floats(stranger.slot) == 42.0)
    node.pool.drop(stranger, 1)
    heir.inbox += [Descriptor(Opcode.OBJECT, *r, 1) for r in recovery.redispatch]
    heir.inbox.append(third)
    node.settle()
    assert check_mean(node, schema, reference, updates, [3, 5, 7]) == {1, 2, 3}
    assert node.states() == {SlotState.FREE}


def test_a_zombie_cannot_seal(node, make_update):
    agg = node.aggregator(role(goal=3))
    agg.inbox.append(node.upload(make_update(1), 3))
    node.settle()
    node.pool.recover(agg.endpoint)
    agg.tell(Flush(1))
    assert (agg.stats.fenced, agg.stats.partials) == (1, 0)
    assert not node.sink
    assert node.pool.find(state=SlotState.SEALED, kind=SlotKind.UPDATE)


def test_fenced_between_the_check_and_the_seal(node, make_update, monkeypatch):
    agg = node.aggregator(role(goal=3))
    agg.inbox.append(node.upload(make_update(1), 3))
    node.settle()
    seal = node.pool.seal

    def late(*args):
        node.pool.recover(agg.endpoint)
        seal(*args)

    monkeypatch.setattr(node.pool, "seal", late)
    agg.tell(Flush(1))
    assert agg.stats.fenced == 1
    assert agg.machine.open == ()


def test_an_unreadable_object_goes_back_and_is_named_once(node, make_update, caplog):
    agg = node.aggregator(role())
    ref = node.pool.reserve(SlotKind.UPDATE, 1, 1)
    node.pool.slot_bytes(ref.slot)[:100] = b"x" * 100
    node.pool.seal(ref, 1, Seal(77, 1.0, 0, 100))
    agg.inbox += [Descriptor(Opcode.OBJECT, *ref, 1)] * 3
    node.settle()
    assert agg.stats.refused == 3
    assert node.pool.entry(ref.slot).state is SlotState.SEALED
    assert sum("cannot use" in r.message for r in caplog.records) == 1


def test_overlapping_covers_are_refused_loudly(node, schema, make_update, caplog):
    leaf, top = node.aggregator(role(goal=1, final=False)), node.aggregator(role(goal=5))
    leaf.wire.target = top.inbox
    leaf.inbox.append(node.upload(make_update(1), 3))
    node.settle()
    node._serial = 0  # a second update of the same serial: a bug elsewhere
    leaf.inbox.append(node.upload(make_update(1), 3))
    node.settle()
    assert top.stats.refused == 1
    assert "in the sum of assignment 1 already" in caplog.text
    top.tell(Flush(1))
    assert node.collect()[3] == {1}


def test_a_busy_table_only_delays(node, schema, make_update, reference, monkeypatch, caplog):
    agg = node.aggregator(role(goal=1))
    d = node.upload(make_update(1), 3)
    take, failures = node.pool.take, [PoolBusy("held"), PoolBusy("held")]

    def busy(*args):
        if failures:
            raise failures.pop()
        return take(*args)

    monkeypatch.setattr(node.pool, "take", busy)
    agg.tell(Received(d))
    assert caplog.text.count("held") == 2
    monkeypatch.undo()
    assert check_mean(node, schema, reference, [make_update(1)], [3]) == {1}


def test_a_schema_that_does_not_fit_the_slots_is_refused(node, caplog):
    agg = node.aggregator(role())
    raw = b'{"w":{"dtype":"F16","shape":[80000],"data_offsets":[0,160000]}}'
    document = len(raw).to_bytes(8, "little") + raw + bytes(160_000)
    ref = node.pool.reserve(SlotKind.UPDATE, 1, 1)
    node.pool.slot_bytes(ref.slot)[: len(document)] = document
    node.pool.seal(ref, 1, Seal(1, 1.0, 0, len(document), layout=1))
    agg.tell(Received(Descriptor(Opcode.OBJECT, *ref, 1)))
    assert "does not fit" in caplog.text
    assert node.pool.entry(ref.slot).state is SlotState.SEALED


def test_a_cover_that_does_not_fit_the_meta_area(node, make_update, schema):
    agg = node.aggregator(role(goal=0))
    room = (node.pool.geometry.meta_bytes - schema.float_start) // 8
    child = node.pool.reserve(SlotKind.PARTIAL, 5, 1)
    head = schema.canonical_header()
    start = node.pool.geometry.meta_bytes - schema.float_start
    node.pool.slot_bytes(child.slot)[start : start + len(head)] = head
    seal = Seal(9, 1.0, start, schema.document_bytes, cover=range(1, room + 1))
    node.pool.seal(child, 5, seal)
    agg.tell(Received(Descriptor(Opcode.OBJECT, *child, 1)))
    node._serial = room
    agg.tell(Received(node.upload(make_update(1), 1)))
    with pytest.raises(ConfigError, match="no room for a cover"):
        agg.tell(Flush(1))


def test_what_it_has_done_lies_where_the_agent_looks(node, make_update):
    before = Stats(updates=7, waited_ns=10**15, busy_ns=10**15)  # of an earlier registration
    agg = node.aggregator(role(goal=9))
    agg.performer = Performer(node.pool, agg.wire, agg.endpoint, node.kernel, before, lane=3)
    assert node.pool.read_work(3) == (0, 0, 0)
    uploaded = [node.upload(make_update(i), 1) for i in range(4)]
    time.sleep(0.02)
    for descriptor in uploaded:
        agg.tell(Received(descriptor))
    added, waited, busy = node.pool.read_work(3)
    assert added == 4
    assert 0 < busy < waited
    assert waited >= 4 * 20_000_000


@pytest.mark.parametrize(
    "point", ["after-take", "after-open", "after-add", "before-seal", "after-seal", "before-send"]
)
def test_killed_at_each_point_then_recovered(point, node, schema, make_update, reference, tmp_path):
    """The same result as undisturbed, wherever an aggregator dies."""
    updates = [make_update(1), make_update(2)]
    descriptors = [node.upload(updates[0], 3), node.upload(updates[1], 5)]
    (tmp_path / point).touch()
    child = os.fork()
    if child == 0:
        crash.arm({"LIFL_CRASH_DIR": str(tmp_path)})
        victim = node.aggregator(role(final=False))
        victim.inbox += descriptors
        victim.work()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    node.pool.recover(10)
    top = node.aggregator(role())
    assert top.endpoint == 10
    again = node.pool.find(state=SlotState.SEALED)
    top.tell(RoleChanged(role(goal=len(again))))
    top.inbox += [Descriptor(Opcode.OBJECT, *ref, 1) for ref in again]
    node.settle()
    kinds = {node.pool.entry(ref.slot).kind for ref in again}
    sealed = point in {"after-seal", "before-send"}  # what completes the sum is not in it
    assert kinds == ({SlotKind.PARTIAL, SlotKind.UPDATE} if sealed else {SlotKind.UPDATE})
    assert len(again) == 2
    assert check_mean(node, schema, reference, updates, [3, 5]) == {1, 2}
    assert node.states() == {SlotState.FREE}
