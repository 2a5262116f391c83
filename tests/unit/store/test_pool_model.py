"""Property: whatever the order of calls and deaths, every update is counted exactly once."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lifl.errors import AlreadyTaken, Fenced, PoolFull, StaleObject
from lifl.store import Pool, PoolGeometry, Seal, SlotKind, SlotRef, SlotState

LEAVES = (2, 3, 4)


class ExactlyOnce(RuleBasedStateMachine):
    """Leaves take, seal, die and come back as zombies; descriptors are lost and repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool.create("model", PoolGeometry(10, 4096, 4096))
        self.serial = 0
        self.held: dict[int, list[tuple[SlotRef, list[int]]]] = {leaf: [] for leaf in LEAVES}
        self.outputs: dict[int, SlotRef] = {}
        self.descriptors: list[SlotRef] = []

    @rule()
    def post(self) -> None:
        with contextlib.suppress(PoolFull):
            ref = self.pool.reserve(SlotKind.UPDATE, 1, 7)
            self.serial += 1
            self.pool.seal(ref, 1, Seal(self.serial, 1.0, 0, 4096))
            self.descriptors.append(ref)

    @precondition(lambda self: self.descriptors)
    @rule(data=st.data(), leaf=st.sampled_from(LEAVES))
    def deliver(self, data: st.DataObject, leaf: int) -> None:
        ref = data.draw(st.sampled_from(self.descriptors))
        with contextlib.suppress(AlreadyTaken, StaleObject):
            self.pool.take(ref, leaf)
            self.held[leaf].append((ref, self.pool.cover(ref.slot).tolist()))

    @rule(leaf=st.sampled_from(LEAVES))
    def open_output(self, leaf: int) -> None:
        if leaf not in self.outputs:
            with contextlib.suppress(PoolFull):
                self.outputs[leaf] = self.pool.reserve(SlotKind.PARTIAL, leaf, 7)

    @rule(leaf=st.sampled_from(LEAVES))
    def seal(self, leaf: int) -> None:
        if leaf not in self.outputs or not self.held[leaf]:
            return
        cover = [serial for _, serials in self.held[leaf] for serial in serials]
        inputs = [ref for ref, _ in self.held[leaf]]
        out = self.outputs.pop(leaf)
        self.held[leaf] = []
        with contextlib.suppress(Fenced):
            self.pool.seal(out, leaf, Seal(0, len(cover), 0, 4096, cover=cover, inputs=inputs))
            self.descriptors.append(out)

    @rule(leaf=st.sampled_from(LEAVES), zombie=st.booleans())
    def die(self, leaf: int, zombie: bool) -> None:
        self.descriptors.extend(self.pool.recover(leaf).redispatch)
        if not zombie:
            self.held[leaf] = []
            self.outputs.pop(leaf, None)

    @invariant()
    def every_update_is_in_exactly_one_object(self) -> None:
        found: list[int] = []
        for state in (SlotState.SEALED, SlotState.TAKEN):
            for ref in self.pool.find(state=state):
                found.extend(self.pool.cover(ref.slot).tolist())
        assert sorted(found) == list(range(1, self.serial + 1))

    def teardown(self) -> None:
        self.pool.close()


ExactlyOnce.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestExactlyOnce = ExactlyOnce.TestCase
