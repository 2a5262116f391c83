"""The rules of the state machine, one by one."""

from __future__ import annotations

import pytest

from functions.aggregator.machine import (
    COMPACT_INPUTS,
    MOST_INPUTS,
    REMEMBERED_ROLES,
    RETRY_SECONDS,
    Machine,
)
from functions.aggregator.steps import (
    Add,
    Drained,
    Fenced,
    Flush,
    Forget,
    NoRoom,
    Opened,
    OpenOutput,
    Received,
    Refuse,
    Retry,
    RetryAfter,
    RoleChanged,
    SealAndSend,
    Sealed,
    Take,
    Taken,
    Untake,
)
from functions.aggregator.summing import Span
from lifl.store import RoleRow, SlotEntry, SlotKind, SlotRef, SlotState
from lifl.update import Schema, TensorSpec
from lifl.wire import Descriptor, Opcode

SCHEMA = Schema([TensorSpec("w", "F32", (4,))])
OTHER = Schema([TensorSpec("w", "F32", (5,))])
OUT = SlotRef(99, 1)
EAGER, LAZY = 0, 1


def role(
    goal=2, timing=EAGER, final=False, assignment=1, lo=0, hi=0, parent_remote=False
) -> RoleRow:
    return RoleRow(assignment, 1, goal, timing, final, lo, hi, parent_remote)


def taken(slot, weight=1.0, cover=None, kind=SlotKind.UPDATE, schema=SCHEMA, assignment=1):
    cover = (slot,) if cover is None else cover
    entry = SlotEntry(
        SlotState.TAKEN, kind, 1, 1, 10, assignment, 0, len(cover), 0, 1, slot, weight, 0, 100, 0
    )
    return Taken(SlotRef(slot, 1), entry, cover, schema)


def machine(row: RoleRow | None) -> Machine:
    made = Machine()
    if row is not None:
        assert made.on(RoleChanged(row)) == []
    return made


def kinds(steps):
    return [type(s) for s in steps]


def inputs(steps):
    """Return the slots of what is added, a list for each pass."""
    return [[ref.slot for ref, _ in s.inputs] for s in steps if isinstance(s, Add)]


def together(m, *slots):
    """Have objects taken whose descriptors wait together; return what is done in the end."""
    for slot in slots:
        (take,) = m.on(Received(Descriptor(Opcode.OBJECT, slot, 1, 1), more=True))
        assert take == Take(SlotRef(slot, 1))
        assert feed(m, taken(slot)) == []
    return feed(m, Drained())


def feed(m, *events):
    """Feed events; answer OpenOutput with Opened and SealAndSend with Sealed; return all steps."""
    steps = []
    for event in events:
        for step in m.on(event):
            steps.append(step)
            if isinstance(step, OpenOutput):
                steps += feed(m, Opened(step.assignment, OUT))
            elif isinstance(step, SealAndSend):
                steps += feed(m, Sealed(step.assignment))
    return steps


def test_a_descriptor_only_asks_to_take():
    m = machine(role())
    assert m.on(Received(Descriptor(Opcode.OBJECT, 7, 3, 1))) == [Take(SlotRef(7, 3))]
    assert m.on(Received(Descriptor(Opcode.WAKE, 0, 0, 1))) == []
    assert m.open == ()


def test_eager_adds_each_arrival_and_seals_at_the_goal():
    m = machine(role(goal=2, parent_remote=True))
    first = feed(m, taken(1, 3.0))
    assert kinds(first) == [OpenOutput, Add]
    second = feed(m, taken(2, 4.0))
    assert kinds(second) == [Add, SealAndSend]
    seal = second[-1]
    assert (seal.output, seal.weight, seal.mean, seal.divide_by) == (OUT, 7.0, False, 1.0)
    assert (seal.cover, seal.inputs) == ((1, 2), (SlotRef(1, 1), SlotRef(2, 1)))
    assert seal.onward == ()
    assert m.open == ()


def test_what_completes_a_sum_for_another_here_goes_on_beside_it():
    m = machine(role(goal=3))
    assert inputs(feed(m, taken(1, 3.0), taken(2, 4.0))) == [[1], [2]]
    (seal,) = feed(m, taken(3, 5.0))
    assert (seal.output, seal.weight, seal.mean, seal.divide_by) == (OUT, 7.0, False, 1.0)
    assert (seal.cover, seal.inputs) == ((1, 2), (SlotRef(1, 1), SlotRef(2, 1)))
    assert seal.onward == (SlotRef(3, 1),)
    assert m.open == ()


def test_a_partial_that_completes_a_sum_goes_on_too():
    m = machine(role(goal=5))
    feed(m, taken(1, 3.0, cover=(1, 2, 3), kind=SlotKind.PARTIAL))
    (seal,) = feed(m, taken(2, 2.0, cover=(4, 5), kind=SlotKind.PARTIAL))
    assert (seal.cover, seal.weight, seal.onward) == ((1, 2, 3), 3.0, (SlotRef(2, 1),))


@pytest.mark.parametrize(
    "row",
    [role(final=True), role(parent_remote=True), role(timing=LAZY)],
    ids=["top", "to another node", "lazy"],
)
def test_what_completes_a_sum_is_added_where_nobody_here_adds_it_next(row):
    seal = feed(machine(row), taken(1), taken(2))[-1]
    assert (seal.cover, seal.onward) == ((1, 2), ())


def test_what_completes_a_sum_is_added_where_slots_are_scarce():
    last = taken(2)._replace(scarce=True)
    assert kinds(feed(machine(role()), taken(1), last))[2:] == [Add, SealAndSend]


def test_a_sum_of_one_is_made_here():
    assert kinds(feed(machine(role(goal=1)), taken(1))) == [OpenOutput, Add, SealAndSend]


def test_fenced_with_what_was_to_go_on_it_lets_go_of_that_as_well():
    m = machine(role())
    feed(m, taken(1))
    (seal,) = m.on(taken(2))
    assert seal.onward == (SlotRef(2, 1),)
    assert m.on(Fenced(1)) == [Forget(1), Untake(SlotRef(1, 1)), Untake(SlotRef(2, 1))]


def test_what_waits_together_is_added_in_one_pass():
    m = machine(role(goal=9))
    assert inputs(together(m, 1, 2, 3)) == [[1, 2, 3]]
    assert inputs(feed(m, taken(4))) == [[4]]
    assert feed(m, Drained()) == []


def test_a_top_divides_while_it_adds_what_came_together():
    m = machine(role(goal=3, final=True))
    feed(m, taken(1))
    add, seal = together(m, 2, 3)
    assert ([ref.slot for ref, _ in add.inputs], add.divide_by, add.hurry) == ([2, 3], 3.0, True)
    assert (seal.mean, seal.divide_by, seal.cover) == (True, 1.0, (1, 2, 3))


def test_what_completes_a_sum_in_company_is_added_with_it():
    m = machine(role(goal=3))
    feed(m, taken(1))
    steps = together(m, 2, 3)
    assert (inputs(steps), steps[-1].onward) == ([[2, 3]], ())


def test_however_much_waits_no_more_is_held_than_is_worth_its_memory():
    m = machine(role(goal=99))
    steps = []
    for slot in range(1, MOST_INPUTS + 1):
        m.on(Received(Descriptor(Opcode.OBJECT, slot, 1, 1), more=True))
        steps = feed(m, taken(slot))
        assert not steps or slot == MOST_INPUTS
    assert kinds(steps) == [OpenOutput, Add, SealAndSend, Take]
    assert len(steps[1].inputs) == MOST_INPUTS


def test_lazy_opens_nothing_before_the_goal():
    m = machine(role(goal=3, timing=LAZY))
    assert feed(m, taken(1), taken(2)) == []
    steps = feed(m, taken(3))
    assert kinds(steps) == [OpenOutput, Add, SealAndSend]
    assert inputs(steps) == [[1, 2, 3]]


def test_only_what_is_sealed_next_is_in_a_hurry():
    m = machine(role(goal=3, final=True))
    steps = feed(m, taken(1), taken(2), taken(3))
    assert [s.hurry for s in steps if isinstance(s, Add)] == [False, False, True]
    m = machine(role(goal=2, timing=LAZY))
    steps = feed(m, taken(1), taken(2))
    assert [s.hurry for s in steps if isinstance(s, Add)] == [True]


@pytest.mark.parametrize(("timing", "divided"), [(EAGER, [1.0, 8.0]), (LAZY, [8.0])])
def test_a_top_divides_in_its_last_addition(timing, divided):
    m = machine(role(goal=2, timing=timing, final=True))
    steps = feed(m, taken(1, 3.0), taken(2, 5.0))
    assert [s.divide_by for s in steps if isinstance(s, Add)] == divided
    assert (steps[-1].mean, steps[-1].divide_by, steps[-1].weight) == (True, 1.0, 8.0)


def test_a_flushed_top_divides_in_a_pass():
    m = machine(role(goal=9, final=True))
    feed(m, taken(1, 3.0), taken(2, 5.0))
    (seal,) = feed(m, Received(Descriptor(Opcode.FLUSH, 0, 0, 1)))
    assert (seal.mean, seal.divide_by) == (True, 8.0)


def test_a_lazy_one_that_is_flushed_adds_all_first():
    m = machine(role(goal=9, timing=LAZY, final=True))
    feed(m, taken(1, 3.0), taken(2, 5.0))
    steps = feed(m, Flush(1))
    assert kinds(steps) == [OpenOutput, Add, SealAndSend]
    assert (inputs(steps), steps[1].divide_by, steps[2].divide_by) == ([[1, 2]], 8.0, 1.0)


def test_nothing_to_flush():
    assert feed(machine(role()), Flush(1), Flush(77)) == []


def test_what_comes_late_starts_another_partial():
    m = machine(role(goal=2))
    feed(m, taken(1), taken(2))
    assert kinds(feed(m, taken(3))) == [OpenOutput, Add]
    (seal,) = feed(m, Flush(1))
    assert seal.cover == (3,)


def test_assignments_do_not_mix_and_a_role_change_touches_none():
    m = machine(role(goal=2))
    feed(m, taken(1))
    assert feed(m, RoleChanged(role(goal=2, assignment=2, final=True))) == []
    feed(m, taken(5, assignment=2))
    assert m.open == (1, 2)
    seal_two = feed(m, taken(6, assignment=2))[-1]
    assert (seal_two.assignment, seal_two.mean, seal_two.cover) == (2, True, (5, 6))
    seal_one = feed(m, taken(2))[-1]
    assert (seal_one.assignment, seal_one.mean, seal_one.cover) == (1, False, (1,))
    assert seal_one.onward == (SlotRef(2, 1),)


def test_without_a_role_it_sums_until_it_is_flushed():
    m = machine(None)
    assert kinds(feed(m, taken(1), taken(2), taken(3))) == [OpenOutput, Add, Add, Add]
    (seal,) = feed(m, Flush(1))
    assert not seal.mean


def test_a_smaller_goal_completes_what_is_there():
    m = machine(role(goal=3))
    feed(m, taken(1), taken(2))
    assert kinds(feed(m, RoleChanged(role(goal=2)))) == [SealAndSend]


def test_from_lazy_to_eager():
    m = machine(role(goal=3, timing=LAZY))
    feed(m, taken(1))
    assert kinds(feed(m, RoleChanged(role(goal=3)))) == [OpenOutput, Add]


def test_an_idle_row_means_nothing():
    m = machine(role())
    assert m.on(RoleChanged(RoleRow(0, 0, 0, 0, False))) == []
    assert m.knows(1)
    assert not m.knows(0)


def test_old_roles_are_forgotten_but_not_those_in_use():
    m = machine(role(goal=5))
    feed(m, taken(1))
    for a in range(2, 50):
        m.on(RoleChanged(role(assignment=a)))
    assert m.knows(1)
    assert m.knows(49)
    assert not m.knows(2)
    assert sum(m.knows(a) for a in range(50)) == REMEMBERED_ROLES


def test_no_room_puts_the_inputs_back_and_tries_again():
    m = machine(role(goal=2, timing=LAZY))
    m.on(taken(1))
    (ask,) = m.on(taken(2))
    assert isinstance(ask, OpenOutput)
    back = m.on(NoRoom(1))
    assert back == [Untake(SlotRef(1, 1)), Untake(SlotRef(2, 1)), RetryAfter(RETRY_SECONDS)]
    assert m.open == ()
    assert m.on(Retry()) == [Take(SlotRef(1, 1)), Take(SlotRef(2, 1))]
    assert m.on(Retry()) == []
    assert kinds(feed(m, taken(1), taken(2))) == [OpenOutput, Add, SealAndSend]


def test_fencing_voids_the_sum_and_lets_go_of_everything():
    m = machine(role(goal=3))
    feed(m, taken(1))
    assert kinds(m.on(taken(2))) == [Add]
    assert m.on(Fenced(1)) == [Forget(1), Untake(SlotRef(1, 1)), Untake(SlotRef(2, 1))]
    assert m.open == ()
    assert kinds(feed(m, taken(2))) == [OpenOutput, Add]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (taken(2, cover=(1, 5), kind=SlotKind.PARTIAL), "in the sum"),
        (taken(2, schema=OTHER), "does not fit"),
        (taken(2, kind=SlotKind.MODEL), "MODEL"),
    ],
)
def test_refused_inputs_leave_the_sum_alone(bad, reason):
    m = machine(role(goal=2, final=True))
    feed(m, taken(1, 3.0))
    (refusal,) = feed(m, bad)
    assert isinstance(refusal, Refuse)
    assert refusal.ref == SlotRef(2, 1)
    assert reason in refusal.reason
    assert feed(m, taken(3, 1.0))[-1].cover == (1, 3)


def test_scarce_slots_make_it_seal_what_it_has_and_go_on_from_there():
    m = machine(role(goal=9, final=True))
    few = [taken(i)._replace(scarce=True) for i in range(1, COMPACT_INPUTS)]
    assert SealAndSend not in kinds(feed(m, *few))
    steps = feed(m, taken(8, 2.0)._replace(scarce=True))
    assert kinds(steps) == [Add, SealAndSend, Take]
    seal = steps[1]
    assert (seal.keep, seal.mean, seal.divide_by) == (True, False, 1.0)
    assert len(seal.inputs) == COMPACT_INPUTS
    assert steps[2] == Take(OUT)
    kept = taken(99, seal.weight, cover=seal.cover, kind=SlotKind.PARTIAL)
    assert kinds(feed(m, kept)) == [OpenOutput, Add]
    (last,) = feed(m, Flush(1))
    assert (last.keep, last.mean, last.cover) == (False, True, seal.cover)


def test_no_more_inputs_are_held_than_is_worth_their_memory():
    m = machine(role(goal=MOST_INPUTS + 1, final=True))
    assert SealAndSend not in kinds(feed(m, *(taken(i) for i in range(1, MOST_INPUTS))))
    steps = feed(m, taken(MOST_INPUTS))
    assert kinds(steps) == [Add, SealAndSend, Take]
    assert (steps[1].keep, len(steps[1].inputs)) == (True, MOST_INPUTS)
    kept = taken(99, steps[1].weight, cover=steps[1].cover, kind=SlotKind.PARTIAL)
    last = feed(m, kept, taken(MOST_INPUTS + 1))[-1]
    assert (last.keep, last.mean, len(last.cover)) == (False, True, MOST_INPUTS + 1)


def test_what_is_lazy_waits_for_all_however_many_they_are():
    m = machine(role(goal=2 * MOST_INPUTS, timing=LAZY))
    assert feed(m, *(taken(i) for i in range(1, 2 * MOST_INPUTS))) == []


def test_at_the_goal_nothing_is_compacted():
    m = machine(role(goal=COMPACT_INPUTS))
    steps = feed(m, *(taken(i)._replace(scarce=True) for i in range(COMPACT_INPUTS)))
    assert steps[-1].keep is False


def test_a_partial_counts_as_the_updates_it_covers():
    m = machine(role(goal=5))
    steps = feed(m, taken(1, cover=(1, 2, 3), kind=SlotKind.PARTIAL))
    assert SealAndSend not in kinds(steps)
    steps = feed(m, taken(2, cover=(4, 5), kind=SlotKind.PARTIAL))
    assert isinstance(steps[-1], SealAndSend)


def test_a_weight_of_zero_is_never_divided_by():
    m = machine(role(goal=1, final=True))
    seal = feed(m, taken(1, 0.0))[-1]
    assert (seal.mean, seal.divide_by) == (False, 1.0)


def test_the_range_of_the_role_goes_with_the_output():
    m = machine(role(lo=2, hi=3))
    (ask,) = m.on(taken(1))
    assert ask == OpenOutput(1, SCHEMA, Span(2, 3))
