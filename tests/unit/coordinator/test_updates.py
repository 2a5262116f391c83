"""Claims, duplicates, partials and transfers: exactly once, and never a silent hole."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from functions.coordinator.effects import Notice
from functions.coordinator.problems import Refused
from functions.coordinator.records import Claim, ClaimState, Phase

from .conftest import NODE, Scene, rules


def refused(code: str, call, *args, **kwargs) -> Refused:
    with pytest.raises(Refused) as e:
        call(*args, **kwargs)
    assert e.value.code == code
    return e.value


# -- claims -------------------------------------------------------------------


def test_a_second_post_is_a_duplicate_with_the_first_ones_digest(scene):
    s = scene()
    serial = s.post("c0")
    claim, duplicate = s.claim("c0")
    assert duplicate and (claim.serial, claim.digest) == (serial, "d")
    assert s.rounds.book.accepted == 1


def test_a_second_upload_replaces_one_that_has_not_ended(scene):
    s = scene()
    first = s.claim("c0")[0].serial
    second = s.claim("c0")[0].serial
    refused("claim-gone", s.seal, first)
    s.seal(second)
    assert s.rounds.book.accepted == 1
    assert set(s.stored_claims) == {second}


def test_a_seal_may_be_repeated_but_not_with_another_object(scene):
    s = scene()
    serial = s.post("c0")
    s.seal(serial)
    refused("claim-sealed", s.seal, serial, slot=77)
    assert s.rounds.book.accepted == 1


def test_an_aborted_upload_opens_the_claim_again(scene):
    s = scene()
    serial = s.claim("c0")[0].serial
    s.abort(serial)
    refused("claim-gone", s.seal, serial)
    assert s.post("c0") > serial
    s.abort(s.claim("c0")[0].serial)  # a duplicate's claim is not aborted
    assert s.rounds.book.accepted == 1


# -- claimed and counted in one -----------------------------------------------


def test_one_question_claims_and_counts(scene):
    s = scene()
    claim, duplicate = s.count("c0", slot=5)
    assert not duplicate
    assert (claim.state, claim.node, claim.slot, claim.digest) == ("sealed", NODE, 5, "d")
    assert s.rounds.book.accepted == 1
    assert s.stored_claims == {claim.serial: claim}
    assert s.notices[-1] == Notice.SOON


def test_the_question_may_be_put_again_for_the_same_object_only(scene):
    s = scene()
    first, _ = s.count("c0", slot=5)
    assert s.count("c0", slot=5) == (first, False)
    assert s.count("c0", slot=6) == (first, True)
    assert s.count("c0", slot=5, digest="e") == (first, True)
    assert s.count("c0", slot=5, node="node-1") == (first, True)
    s.restart()
    assert s.count("c0", slot=5) == (first, False)
    assert s.rounds.book.accepted == 1


def test_the_last_update_that_is_counted_closes_the_round(scene):
    s = scene()
    for i in range(3):
        s.count(f"c{i}", slot=i + 1)
    assert s.phase is Phase.CLOSING
    assert s.stored_round.phase is Phase.CLOSING
    refused("round-closed", s.count, "c9", slot=9)


def test_what_is_counted_replaces_an_upload_that_has_not_ended(scene):
    s = scene()
    slow = s.claim("c0", node="node-1")[0].serial
    fast, duplicate = s.count("c0")
    assert not duplicate
    refused("claim-gone", s.seal, slow, node="node-1")
    assert set(s.stored_claims) == {fast.serial}


def test_an_object_of_another_attempt_is_not_counted(scene):
    s = scene()
    refused("wrong-assignment", s.count, "c0", assignment=s.assignment + 1)
    refused("wrong-round", s.count, "c0", round=7, assignment=s.assignment + 1)
    refused("wrong-update-type", s.count, "c0", update_type="delta")
    assert s.rounds.book.accepted == 0 and s.stored_claims == {}


# -- late, early, wrong -------------------------------------------------------


def test_late_early_and_wrong_rounds_are_refused(scene):
    s = scene()
    assert "not begun" in refused("wrong-round", s.claim, "c0", round=2).detail
    assert "is over" in refused("wrong-round", s.claim, "c0", round=0).detail
    planning = scene(opened=False)
    refused("round-not-open", planning.claim, "c0")


def test_wrong_base_or_type_is_refused(scene):
    s = scene()
    refused("wrong-base-version", s.claim, "c0", base_version=3)
    error = refused("wrong-update-type", s.claim, "c0", update_type="delta")
    assert error.status == 422
    s.claim("c0", base_version=0, update_type="weights")


def test_a_seal_after_the_round_closed_is_refused(scene):
    s = scene(5, per_round=3, over=0.5)
    late = s.claim("c4")[0].serial
    for c in ("c0", "c1", "c2"):
        s.post(c)
    refused("round-closed", s.seal, late)


def test_a_retried_post_of_the_last_round_is_a_duplicate(scene):
    s = scene()
    serials = [s.post(c) for c in ("c0", "c1", "c2")]
    claim, duplicate = s.claim("c0")
    assert duplicate  # closing
    s.partial(*serials)
    s.commit()
    claim, duplicate = s.claim("c0", round=1)
    assert duplicate and claim.serial == serials[0]
    refused("wrong-round", s.claim, "stranger", round=1)


# -- partials -----------------------------------------------------------------


def test_a_partial_witnesses_an_update_whose_gateway_died(scene):
    s = scene()
    a, b = s.post("c0"), s.post("c1")
    c = s.claim("c2")[0].serial
    assert s.partial(a, b, c)
    assert s.phase is Phase.CLOSING and s.rounds.ready()
    s.seal(c)  # its gateway says so late: fine
    assert s.claim("c2")[1]


def test_a_partial_twice_counts_once(scene):
    s = scene()
    a, b = s.post("c0"), s.post("c1")
    assert s.partial(a, b)
    assert not s.partial(a, b)
    assert s.rounds.book.accepted == 2 and s.rounds.lost() == []


def test_an_overlapping_partial_is_refused_and_its_rest_asked_again(scene):
    s = scene()
    a, b = s.post("c0"), s.post("c1")
    assert s.partial(a)
    assert not s.partial(a, b)
    assert s.rounds.lost() == ["c1"]
    assert s.post("c1") > b


def test_a_partial_with_an_update_that_was_replaced_is_refused(scene):
    s = scene()
    a, b = s.post("c0", node="node-1"), s.post("c1")
    s.lose("node-1")
    again = s.post("c0")
    assert not s.partial(a, b)
    assert s.rounds.lost() == ["c1"]
    assert s.partial(again)


def test_a_lost_update_that_turns_up_counts_again(scene):
    s = scene()
    a = s.post("c0", node="node-1")
    s.lose("node-1")
    assert s.rounds.lost() == ["c0"]
    assert s.partial(a)
    assert s.rounds.lost() == [] and s.rounds.book.accepted == 1


def test_partials_of_another_attempt_are_released(scene):
    s = scene()
    serial = s.post("c0")
    assert not s.partial(serial, assignment=9)
    assert s.rounds.book.accepted == 1


def test_a_cover_that_names_an_update_twice_is_refused(scene):
    s = scene()
    a = s.post("c0")
    assert not s.partial(a, a)
    assert s.rounds.lost() == ["c0"]


# -- nodes --------------------------------------------------------------------


def test_a_lost_node_opens_its_updates_again(scene):
    s = scene()
    s.post("c0", node="node-1")
    s.claim("c1", node="node-1")
    s.post("c2")
    s.lose("node-1")
    assert s.rounds.lost() == ["c0"]
    assert s.rounds.book.accepted == 1
    assert "c1" not in s.rounds.book.by_client
    s.post("c0")
    s.post("c1")
    assert s.phase is Phase.CLOSING


def test_what_the_coordinator_holds_outlives_the_node(scene):
    s = scene()
    a = s.post("c0", node="node-1")
    s.partial(a)
    s.lose("node-1")
    assert s.rounds.lost() == [] and s.rounds.book.accepted == 1


def test_a_closing_round_goes_on_with_what_is_left(scene):
    s = scene()
    serials = [s.post("c0"), s.post("c1"), s.post("c2", node="node-1")]
    assert s.phase is Phase.CLOSING
    s.partial(*serials[:2])
    s.lose("node-1")
    assert s.rounds.ready()
    s.commit()


def test_a_closing_round_with_too_little_left_asks_only_the_lost_again(scene):
    s = scene()
    kept = s.post("c0")
    s.post("c1", node="node-1")
    s.post("c2", node="node-1")
    s.tick(50)
    s.lose("node-1")
    assert (s.phase, s.rounds.record.attempt) == (Phase.OPEN, 1)
    assert s.rounds.due() == s.now + 60
    assert s.rounds.lost() == ["c1", "c2"]
    again = [s.post("c1"), s.post("c2")]
    assert s.phase is Phase.CLOSING
    s.partial(kept, *again)
    s.commit()


def test_an_inventory_opens_what_is_missing_and_accepts_what_is_there(scene):
    s = scene()
    a, b = s.post("c0"), s.post("c1")
    c = s.claim("c2")[0].serial
    assert s.inventory("node-0", a, c, 4711) == [4711]
    assert s.rounds.lost() == ["c1"]
    assert s.rounds.book.by_serial[c].state is ClaimState.SEALED
    claim, duplicate = s.claim("c2")
    assert duplicate and claim.digest is None
    assert s.post("c1") > b
    assert s.phase is Phase.CLOSING


def test_an_upload_under_way_outlives_an_inventory(scene):
    s = scene()
    claim, _ = s.claim("c0")  # of the gateway that sends the inventory, or of the one before
    s.inventory("node-0")
    assert s.rounds.lost() == []
    assert s.post("c0") > claim.serial
    claim, _ = s.claim("c1")
    s.inventory("node-0", s.rounds.book.by_client["c0"].serial)
    s.seal(claim.serial)
    assert s.rounds.book.accepted == 2


def test_an_inventory_of_one_node_says_nothing_of_another(scene):
    s = scene()
    s.post("c0", node="node-1")
    s.inventory("node-0")
    assert s.rounds.lost() == []


# -- transfers ----------------------------------------------------------------


def test_a_transfer_moves_updates_to_the_other_node(scene):
    s = scene()
    a, b = s.post("c0", node="node-1"), s.post("c1", node="node-1")
    assert not s.transfer(a, a, b)
    s.lose("node-7")
    s.transferred(a)
    assert s.transfer(a, a, b)  # sent again: it is there
    s.transferred(a)
    s.lose("node-1")
    assert s.rounds.lost() == []
    refused("transfer-sealed", s.transferred, a, slot=8)
    s.restart()
    assert s.transfer(a, a, b)
    s.lose("node-0")
    assert s.rounds.lost() == ["c0", "c1"]


def test_what_a_dead_gateway_did_not_seal_may_come_again_from_its_sender(scene):
    s = scene()
    a, b = s.post("c0", node="node-1"), s.post("c1", node="node-1")
    s.transfer(a, a, b)
    s.transferred(a)
    s.inventory("node-0")
    assert s.rounds.lost() == ["c0", "c1"]
    s.restart()
    assert not s.transfer(a, a, b)
    assert s.rounds.lost() == []
    s.transferred(a, slot=8)
    s.lose("node-1")
    assert s.partial(a, b)


def test_what_comes_again_from_its_sender_is_too_late_after_its_client(scene):
    s = scene()
    a, b = s.post("c0", node="node-1"), s.post("c1", node="node-1")
    s.transfer(a, a, b)
    s.transferred(a)
    s.inventory("node-0")
    again = s.post("c0")
    refused("cover-refused", s.transfer, a, a, b)
    assert s.rounds.lost() == ["c1"]
    assert s.partial(again)


def test_a_transfer_that_began_before_its_node_was_lost_is_refused_at_its_end(scene):
    s = scene()
    a = s.post("c0", node="node-1")
    s.transfer(a, a)
    s.lose("node-1")
    again = s.post("c0")
    refused("cover-refused", s.transferred, a)
    assert s.partial(again)


def test_a_transfer_from_where_the_updates_are_not_is_refused(scene):
    s = scene()
    a = s.post("c0", node="node-1")
    b = s.post("c1", node="node-2")
    refused("cover-refused", s.transfer, a, a, b)
    assert s.rounds.lost() == ["c0"]  # its data are thrown away; c1's lie on node-2


def test_transfers_of_another_attempt_or_node_are_refused(scene):
    s = scene()
    a = s.post("c0", node="node-1")
    s.transfer(a, a)
    refused("transfer-gone", s.transferred, a, node="node-5")
    s.tick(60)
    refused("transfer-gone", s.transferred, a)
    refused("wrong-assignment", s.transfer, a, a)


# -- everything at once -------------------------------------------------------

CLIENTS = [f"c{i}" for i in range(6)]
NODES = ["node-0", "node-1", "node-2"]


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens, a committed model holds each accepted client exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.s = Scene(rules(4, 2, rounds=1000), CLIENTS)
        self.uploads: list[tuple[int, str]] = []
        self.objects: dict[str, list[tuple[int, ...]]] = {n: [] for n in NODES}
        self.owner: dict[int, str] = {}
        self.told: set[int] = set()

    @precondition(lambda self: self.s.phase is Phase.PLANNING)
    @rule()
    def plan(self):
        self.s.plan()

    @rule(client=st.sampled_from(CLIENTS), node=st.sampled_from(NODES))
    def claim(self, client, node):
        try:
            claim, duplicate = self.s.claim(client, node=node)
        except Refused:
            return
        if not duplicate:
            self.owner[claim.serial] = client
            self.uploads.append((claim.serial, node))

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def seal(self, data):
        self._seal(data.draw(st.integers(0, len(self.uploads) - 1)))

    def _seal(self, index):
        serial, node = self.uploads.pop(index)
        try:
            self.s.seal(serial, node=node)
        except Refused:
            return
        self.told.add(serial)
        self.objects[node].append((serial,))

    @rule(
        client=st.sampled_from(CLIENTS),
        node=st.sampled_from(NODES),
        again=st.booleans(),
        cut=st.booleans(),
    )
    def count(self, client, node, again, cut):
        """Claim and count in one; ``cut``: the gateway dies before it seals the object."""
        slot = 1000 + len(self.owner)
        try:
            claim, duplicate = self.s.count(client, node=node, slot=slot)
        except Refused:
            return
        if duplicate:
            return
        self.owner[claim.serial] = client
        if again:
            assert self.s.count(client, node=node, slot=slot) == (claim, False)
        if cut:
            self.gateway_restarts(node)
            return
        self.told.add(claim.serial)
        self.objects[node].append((claim.serial,))

    @rule(node=st.sampled_from(NODES), count=st.integers(2, 4))
    def merge(self, node, count):
        parts = self.objects[node]
        if len(parts) >= 2:
            taken, self.objects[node] = parts[:count], parts[count:]
            self.objects[node].append(tuple(s for p in taken for s in p))

    @rule(source=st.sampled_from(NODES[1:]), again=st.booleans(), cut=st.booleans())
    def ship(self, source, again, cut):
        """Send an object; ``cut``: its receiver dies after the count and before the seal."""
        if not self.objects[source]:
            return
        cover = self.objects[source].pop(0)
        try:
            arrived = self.s.transfer(min(cover), *cover, source=source)
            if arrived:
                return
            self.s.transferred(min(cover))
        except Refused:
            return
        if cut:
            self.gateway_restarts("node-0")
            self.objects[source].append(cover)
            return
        self.objects["node-0"].append(cover)
        if again:
            assert self.s.transfer(min(cover), *cover, source=source)

    @rule(twice=st.booleans())
    def deliver(self, twice):
        if self.objects["node-0"]:
            cover = self.objects["node-0"].pop(0)
            self.s.partial(*cover)
            if twice:
                assert not self.s.partial(*cover)

    @rule(node=st.sampled_from(NODES), really=st.booleans())
    def lose(self, node, really):
        """Lose a node, or only its heartbeats: then its objects turn up later."""
        self.s.lose(node)
        if really:
            self.objects[node] = []

    @rule(node=st.sampled_from(NODES))
    def gateway_restarts(self, node):
        self.uploads = [u for u in self.uploads if u[1] != node]
        self.s.inventory(node, *(s for cover in self.objects[node] for s in cover))

    @rule()
    def coordinator_restarts(self):
        held = set(self.s.rounds.book.held)
        self.s.restart()
        if held:
            self.objects["node-0"].append(tuple(sorted(held)))  # handed out again

    @rule(seconds=st.sampled_from([1.0, 30.0, 70.0]))
    def time_passes(self, seconds):
        self.s.tick(seconds)

    @rule()
    def left_alone_the_round_ends(self):
        """Without further faults the round is committed, whatever has happened before."""
        before = self.s.rounds.version
        for _ in range(6):
            if self.s.phase is Phase.PLANNING:
                self.s.plan()
            for client in CLIENTS:
                self.claim(client, "node-1")
            while self.uploads:
                self._seal(0)
            for node in NODES[1:]:
                while self.objects[node]:
                    self.ship(node, again=False, cut=False)
            while self.objects["node-0"]:
                self.deliver(twice=False)
            if self.s.rounds.ready():
                self.commit()
                break
            self.s.tick(70)
        assert self.s.rounds.version == before + 1

    def commit(self):
        book = self.s.rounds.book
        covered = sorted(book.held)
        clients = [self.owner[s] for s in covered]
        assert len(set(clients)) == len(clients) >= 2
        assert covered == sorted(c.serial for c in book.sealed())
        self.s.commit()

    @invariant()
    def accepted_is_what_is_counted(self):
        book = self.s.rounds.book
        assert book.accepted == len(book.sealed())
        assert book.held <= {c.serial for c in book.sealed()}
        for claim in book.by_serial.values():
            assert book.by_client[claim.client] is claim

    @invariant()
    def the_store_says_the_same(self):
        book = self.s.rounds.book
        present = {
            serial: Claim.from_json(c.to_json())
            for serial, c in self.s.stored_claims.items()
            if c.assignment == self.s.assignment
        }
        assert present == book.by_serial

    @invariant()
    def no_acknowledged_update_is_silently_missing(self):
        """Each acknowledged client of this attempt is accepted or told that its update is lost."""
        book, lost = self.s.rounds.book, set(self.s.rounds.lost())
        for serial in self.told & book.by_serial.keys():
            claim = book.by_serial[serial]
            assert claim.state is ClaimState.SEALED or claim.client in lost


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
