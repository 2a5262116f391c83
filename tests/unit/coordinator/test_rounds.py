"""Phases: planning, open, closing, committing, and what sends a round back."""

from __future__ import annotations

import pytest

from functions.coordinator.effects import Notice
from functions.coordinator.problems import Refused
from functions.coordinator.records import ClaimState, Phase


def test_a_round_from_planning_to_the_next(scene):
    s = scene(opened=False)
    assert (s.phase, s.rounds.record.goal, s.rounds.version) == (Phase.PLANNING, 3, 0)
    s.plan()
    assert (s.phase, s.rounds.record.deadline) == (Phase.OPEN, s.now + 60)
    serials = [s.post(c) for c in ("c0", "c1", "c2")]
    assert s.phase is Phase.CLOSING
    assert not s.rounds.ready()
    assert s.partial(*serials[:2])
    assert not s.rounds.ready()
    assert s.partial(serials[2])
    s.commit()
    record = s.rounds.record
    assert (s.phase, record.round, record.assignment, s.rounds.version) == (Phase.PLANNING, 2, 2, 1)
    assert record.goal == 3


def test_the_last_round_ends_the_job(scene):
    s = scene(rounds=1)
    s.partial(*[s.post(c) for c in ("c0", "c1", "c2")])
    s.commit()
    assert (s.phase, s.rounds.version) == (Phase.DONE, 1)
    with pytest.raises(Refused, match="done"):
        s.claim("c9", round=2)


@pytest.mark.parametrize("rounds", [1, 5])
def test_a_round_that_is_skipped_is_followed_by_one_in_any_case(scene, rounds):
    s = scene(rounds=rounds)
    serial = s.post("c0")
    following = s.rounds.skipping(s.now)
    assert (following.round, following.attempt, following.phase) == (2, 1, Phase.PLANNING)
    assert (following.assignment, following.lost) == (2, ())
    s.apply(s.rounds.skipped(following, s.now))
    assert (s.rounds.version, s.rounds.book.accepted, s.rounds.lost()) == (1, 0, [])
    assert following.serials > serial
    s.plan()
    s.post("c0")
    assert s.rounds.book.accepted == 1


def test_of_a_job_that_is_over_only_the_number_changes(scene):
    s = scene()
    s.apply(s.rounds.end(Phase.STOPPED))
    following = s.rounds.skipping(s.now)
    assert (following.round, following.phase) == (2, Phase.STOPPED)
    s.apply(s.rounds.skipped(following, s.now))
    assert (s.rounds.version, s.phase) == (1, Phase.STOPPED)


def test_a_partial_may_come_before_the_round_closes(scene):
    s = scene()
    first = s.post("c0")
    assert s.partial(first)
    rest = [s.post("c1"), s.post("c2")]
    assert not s.rounds.ready()
    s.partial(*rest)
    assert s.rounds.ready()


# -- clients ------------------------------------------------------------------


def test_planning_waits_for_the_minimum_then_a_grace(scene):
    s = scene(1, per_round=4, minimum=2, opened=False)
    assert s.rounds.record.goal == 0
    with pytest.raises(Refused) as e:
        s.plan()
    assert e.value.code == "no-clients-yet"
    s.tick(100)
    s.learn("c1")
    assert s.rounds.due() == s.now + 2
    s.tick(1)
    assert s.rounds.record.goal == 0
    s.tick(1)
    record = s.rounds.record
    assert (set(record.selected), record.goal) == ({"c0", "c1"}, 2)


def test_planning_goes_on_at_once_when_all_wanted_are_known(scene):
    s = scene(3, per_round=3, over=0.5, opened=False)
    assert s.rounds.record.goal == 0
    s.learn("c3", "c4")
    record = s.rounds.record
    assert (len(record.selected), record.goal) == (5, 3)
    assert s.notices[-1] == Notice.NOW


def test_over_provisioned_rounds_close_at_the_goal(scene):
    s = scene(5, per_round=3, over=0.5)
    serials = [s.post(c) for c in ("c0", "c1", "c2")]
    assert s.phase is Phase.CLOSING
    with pytest.raises(Refused) as e:
        s.claim("c3")
    assert e.value.code == "round-closed"
    s.partial(*serials)
    s.commit()


def test_with_selection_all_anybody_may_post(scene):
    s = scene(0, per_round=2, everyone=True)
    assert s.phase is Phase.OPEN
    assert s.rounds.record.selected is None
    s.post("who")
    s.post("ever")
    assert s.phase is Phase.CLOSING


def test_a_client_that_was_not_selected_is_told_so(scene):
    s = scene(10, per_round=3)
    other = next(c for c in s.rounds.known if c not in s.rounds.record.selected)
    with pytest.raises(Refused) as e:
        s.claim(other)
    assert e.value.code == "not-selected"


# -- deadline -----------------------------------------------------------------


def test_at_the_deadline_enough_updates_close_the_round(scene):
    s = scene()
    serials = [s.post("c0"), s.post("c1")]
    assert s.rounds.due() == s.now + 60
    s.tick(59.9)
    assert s.phase is Phase.OPEN
    s.tick(0.1)
    assert s.phase is Phase.CLOSING
    s.partial(*serials)
    s.commit()


def test_below_the_minimum_the_round_is_tried_again(scene):
    s = scene()
    s.post("c0")
    s.claim("c1")
    s.tick(60)
    record = s.rounds.record
    assert (s.phase, record.round, record.attempt, record.assignment) == (Phase.PLANNING, 1, 2, 2)
    assert s.rounds.lost() == ["c0", "c1"]
    assert set(record.silent) == {"c1", "c2"}
    assert not s.stored_claims
    s.plan()
    s.post("c0")
    assert s.rounds.lost() == ["c1"]


def test_a_retry_asks_those_that_answered_first(scene):
    s = scene(20, per_round=3, minimum=3)
    chosen = s.rounds.record.selected
    s.post(chosen[0])
    s.tick(60)
    assert not set(chosen[1:]) & set(s.rounds.record.selected)


def test_without_a_deadline_a_round_waits(scene):
    s = scene(deadline=None)
    s.post("c0")
    assert s.rounds.due() is None
    s.tick(1e6)
    assert s.phase is Phase.OPEN


def test_a_closed_round_without_progress_is_tried_again(scene):
    s = scene()
    serials = [s.post(c) for c in ("c0", "c1", "c2")]
    s.tick(59)
    s.partial(serials[0])
    s.tick(59)
    assert s.phase is Phase.CLOSING
    s.tick(1)
    assert (s.phase, s.rounds.record.attempt) == (Phase.PLANNING, 2)
    assert s.rounds.lost() == ["c0", "c1", "c2"]


# -- plans --------------------------------------------------------------------


def test_plans_of_other_assignments_or_older_epochs_are_refused(scene):
    s = scene()
    with pytest.raises(Refused, match="assignment"):
        s.plan(assignment=7)
    s.plan()  # the same again is fine
    s.plan(epoch=2, clients={"c0": "node-1"})
    assert s.rounds.record.plan["clients"] == {"c0": "node-1"}
    with pytest.raises(Refused) as e:
        s.plan(epoch=1)
    assert e.value.code == "stale-plan"


def test_a_new_plan_does_not_move_the_deadline(scene):
    s = scene()
    before = s.rounds.record.deadline
    s.now += 30
    s.plan(epoch=2)
    assert s.rounds.record.deadline == before


def test_a_closing_round_may_be_planned_anew(scene):
    s = scene()
    for c in ("c0", "c1", "c2"):
        s.post(c)
    s.plan(epoch=2)
    assert s.phase is Phase.CLOSING


# -- end and restart ----------------------------------------------------------


def test_a_stopped_job_takes_nothing_more(scene):
    s = scene()
    serial = s.post("c0")
    s.apply(s.rounds.end(Phase.STOPPED))
    assert not s.partial(serial)
    with pytest.raises(Refused) as e:
        s.claim("c1")
    assert e.value.code == "job-over"
    s.restart()
    assert s.phase is Phase.STOPPED


def test_a_version_that_could_not_be_made_is_tried_again(scene):
    s = scene()
    s.partial(*[s.post(c) for c in ("c0", "c1", "c2")])
    s.rounds.committing()
    assert not s.rounds.ready()
    s.rounds.not_committed()
    assert s.rounds.ready()
    s.commit()


def test_a_successor_goes_on_with_the_round(scene):
    s = scene()
    a, b = s.post("c0"), s.claim("c1")[0].serial
    s.restart()
    assert (s.phase, s.rounds.book.accepted) == (Phase.OPEN, 1)
    s.seal(b)
    c = s.post("c2")
    assert c > b
    s.restart()
    assert s.phase is Phase.CLOSING
    s.partial(a, b, c)
    s.commit()
    s.restart()
    assert (s.rounds.version, s.rounds.record.round) == (1, 2)
    claim, duplicate = s.claim("c0", round=1)
    assert duplicate and claim.serial == a


def test_a_successor_never_gives_a_serial_out_again(scene):
    s = scene()
    first = s.claim("c0")[0].serial
    s.abort(first)
    s.restart()
    assert s.claim("c0")[0].serial > first


def test_the_stall_of_a_closed_round_counts_anew_after_a_restart(scene):
    s = scene()
    for c in ("c0", "c1", "c2"):
        s.post(c)
    s.now += 1000
    s.restart()
    assert s.phase is Phase.CLOSING
    assert s.rounds.due() == s.now + s.rules.stall


def test_watchers_hear_soon_of_updates_and_a_little_sooner_that_all_are_there(scene):
    s = scene()
    s.post("c0")
    assert s.notices[-1] == Notice.SOON
    s.post("c1")
    s.post("c2")
    assert s.notices[-1] == Notice.SHORTLY


def test_watchers_hear_at_once_of_a_round_that_closed_with_fewer_updates_than_planned(scene):
    s = scene(5, per_round=3, over=0.5)
    for client in ("c0", "c1", "c2"):
        s.post(client)
    assert s.phase is Phase.CLOSING
    assert s.notices[-1] == Notice.NOW


def test_claims_in_the_store_are_those_in_memory(scene):
    s = scene()
    a = s.post("c0")
    s.claim("c1")
    s.lose("node-0")
    assert {x: c.state for x, c in s.stored_claims.items()} == {a: ClaimState.LOST}
