from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ebpf.agent.plans import Member, View
from ebpf.agent.settle import MEAN, Dispatcher, Item, holders, quiescent, under_pressure
from lifl.store import SlotEntry, SlotKind, SlotRef, SlotState
from lifl.topology import Level, Plan, Role, Timing
from lifl.wire import Kind

GATEWAY, COORDINATOR, ONE, TWO, MIDDLE, TOP = 1, 2, 11, 12, 13, 14
NAMES = {ONE: "one", TWO: "two", MIDDLE: "middle", TOP: "top"}
MEMBERS = [
    Member(GATEWAY, Kind.GATEWAY, "gateway-0", 0, True),
    Member(COORDINATOR, Kind.COORDINATOR, "coordinator", 1, True),
    *(Member(e, Kind.AGGREGATOR, n, 50 + e, True) for e, n in NAMES.items()),
]
PLAN = Plan(
    "job",
    1,
    1,
    Timing.EAGER,
    (
        Role("one", "a", Level.LEAF, 2, "middle"),
        Role("two", "a", Level.LEAF, 2, "middle"),
        Role("middle", "a", Level.MIDDLE, 2, "top"),
        Role("top", "a", Level.TOP, 1),
    ),
)
VIEW = View(PLAN, "a", MEMBERS, coordinator_here=True)


def item(slot: int, state: SlotState, kind: SlotKind = SlotKind.UPDATE, **more: Any) -> Item:
    fields = {
        "generation": 1,
        "owner": GATEWAY,
        "holder": 0,
        "assignment": 1,
        "base_version": 0,
        "cover_count": 0,
        "layout": 0,
        "pages": 1,
        "serial": slot,
        "weight": 1.0,
        "doc_start": 0,
        "doc_bytes": 0,
        "sealed_ns": 0,
    }
    return Item(SlotRef(slot, 1), SlotEntry(state, kind, **(fields | more)))


def taken(slot: int, holder: int, **more: Any) -> Item:
    return item(slot, SlotState.TAKEN, holder=holder, **more)


def partial(slot: int, owner: int, **more: Any) -> Item:
    return item(slot, SlotState.SEALED, SlotKind.PARTIAL, owner=owner, **more)


def output(slot: int, owner: int) -> Item:
    return item(slot, SlotState.WRITING, SlotKind.PARTIAL, owner=owner)


def update(slot: int, **more: Any) -> Item:
    return item(slot, SlotState.SEALED, **more)


def quiet(*items: Item) -> set[int]:
    return set(quiescent(VIEW, items, {}))


def test_leaves_are_flushed_before_those_above_them():
    assert quiet(taken(0, ONE), taken(1, MIDDLE), taken(2, TOP)) == {ONE}
    assert quiet(taken(1, MIDDLE), taken(2, TOP)) == {MIDDLE}
    assert quiet(taken(2, TOP)) == {TOP}
    assert quiet() == set()


def test_leaves_are_flushed_side_by_side():
    assert quiet(taken(0, ONE), taken(1, TWO), output(2, TWO)) == {ONE, TWO}


def test_an_output_without_inputs_is_flushed_too():
    assert quiet(output(0, MIDDLE)) == {MIDDLE}


def test_nobody_is_flushed_while_an_update_may_reach_it():
    assert quiet(update(0), taken(1, ONE), taken(2, MIDDLE)) == set()


def test_a_partial_on_its_way_holds_back_its_receiver_and_those_above():
    assert quiet(partial(0, ONE), taken(1, MIDDLE), taken(2, TOP), taken(3, TWO)) == {TWO}


def test_a_mean_on_its_way_holds_back_nobody():
    assert quiet(partial(0, TOP, layout=MEAN), taken(1, TOP)) == {TOP}


def test_what_others_hold_is_not_flushed():
    assert quiet(taken(0, COORDINATOR), taken(1, GATEWAY), taken(2, 99)) == set()


def test_an_aggregator_without_a_role_is_flushed():
    members = [*MEMBERS, Member(20, Kind.AGGREGATOR, "spare", 90, True)]
    view = View(PLAN, "a", members, coordinator_here=True)
    assert quiescent(view, [taken(0, 20)], {}) == [20]


_ITEMS = st.lists(
    st.builds(
        lambda make, who: (make, who),
        st.sampled_from(["update", "taken", "output", "partial", "mean"]),
        st.sampled_from([ONE, TWO, MIDDLE, TOP]),
    ),
    max_size=12,
)


@given(_ITEMS)
def test_settling_never_stops_and_flushes_nobody_too_early(drawn):
    """Play the protocol on a table: whatever is in it ends at the coordinator."""
    makers = {
        "update": lambda s, _: update(s),
        "taken": taken,
        "output": output,
        "partial": partial,
        "mean": lambda s, _: partial(s, TOP, layout=MEAN),
    }
    table = [makers[make](slot, who) for slot, (make, who) in enumerate(drawn)]
    free = len(table)
    for _ in range(100):
        if not table:
            return
        found = next((i for i in table if i.entry.state is SlotState.SEALED), None)
        flush = quiescent(VIEW, table, {})
        for endpoint in flush:
            assert not [i for i in table if _below(i, endpoint)]
        if found is not None:  # a descriptor arrives
            table.remove(found)
            [send] = Dispatcher(0.1).due(VIEW, [found], {}, 1.0, hurry=False)
            if send.endpoint != COORDINATOR:
                table.append(taken(found.ref.slot, send.endpoint, kind=found.entry.kind))
            continue
        assert flush
        table = [i for i in table if _holder(i) != flush[0]]
        mean = MEAN if flush[0] == TOP else 0
        table.append(partial(free, flush[0], layout=mean))
        free += 1
    raise AssertionError("it does not settle")


def _holder(found: Item) -> int:
    return found.entry.holder if found.entry.state is SlotState.TAKEN else found.entry.owner


def _below(found: Item, endpoint: int) -> bool:
    below = {ONE: set(), TWO: set(), MIDDLE: {ONE, TWO}, TOP: {ONE, TWO, MIDDLE}}[endpoint]
    return found.entry.state is not SlotState.SEALED and _holder(found) in below


def due(dispatcher: Dispatcher, items: list[Item], now: float, hurry: bool = False) -> list[int]:
    return [s.endpoint for s in dispatcher.due(VIEW, items, {}, now, hurry=hurry)]


def test_an_object_is_sent_again_after_its_age_then_ever_more_rarely():
    dispatcher = Dispatcher(0.1)
    items = [partial(0, ONE, sealed_ns=10 * 10**9)]
    assert due(dispatcher, items, 10.05) == []
    assert due(dispatcher, items, 10.1) == [MIDDLE]
    assert due(dispatcher, items, 10.15) == []
    assert due(dispatcher, items, 10.2) == [MIDDLE]
    assert due(dispatcher, items, 10.39) == []
    assert due(dispatcher, items, 10.4) == [MIDDLE]
    assert sum(bool(due(dispatcher, items, 10.4 + i / 10)) for i in range(1, 200)) <= 14


def test_a_hurry_forgets_earlier_tries():
    dispatcher = Dispatcher(0.1)
    items = [update(0)]
    assert due(dispatcher, items, 1.0)
    assert not due(dispatcher, items, 1.01)
    assert due(dispatcher, items, 1.02, hurry=True)


def test_updates_go_round_the_entry_and_forgotten_objects_start_anew():
    dispatcher = Dispatcher(0.1)
    items = [update(s) for s in range(4)]
    assert sorted(due(dispatcher, items, 1.0)) == [ONE, ONE, TWO, TWO]
    dispatcher.forget([])
    assert len(due(dispatcher, items, 1.0)) == 4


def test_only_sealed_objects_are_sent_and_only_if_somebody_is_there():
    dispatcher = Dispatcher(0.1)
    assert due(dispatcher, [taken(0, ONE), output(1, ONE)], 9.0) == []
    nobody = View(PLAN, "a", MEMBERS[:2], coordinator_here=True)
    assert dispatcher.due(nobody, [update(0)], {}, 9.0, hurry=False) == []
    assert due(dispatcher, [update(0)], 9.0) != []


def test_holders_count_inputs():
    items = [taken(0, ONE), taken(1, ONE), output(2, TWO), update(3)]
    assert holders(items) == {ONE: 2, TWO: 0}


def test_pressure_flushes_the_fullest():
    items = [taken(0, ONE), taken(1, TWO), taken(2, TWO), taken(3, COORDINATOR)]
    assert under_pressure(VIEW, items, free=4, kept=4, slots=8) == [TWO]
    assert under_pressure(VIEW, items, free=4, kept=4, slots=40) == [TWO, ONE]
    assert under_pressure(VIEW, items, free=6, kept=4, slots=8) == []
    assert under_pressure(VIEW, [output(0, ONE)], free=0, kept=4, slots=8) == []


def test_pressure_leaves_alone_whose_output_nobody_would_add():
    items = [taken(i, TOP) for i in range(9)]
    assert under_pressure(VIEW, items, free=0, kept=4, slots=12) == []
