"""The client's state machine, with every answer a gateway may give."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lifl.client.agenda import Action, Agenda
from lifl.client.round import Task

STATES = ["open", "closing", "waiting", "done", "stopped"]


def task(number: int, state: str = "open", selected: bool = True, mine: str = "none") -> Task:
    return Task(number, 0, state, selected, "/m", "/u", None, mine, "weights", {})


TASKS = st.builds(
    task,
    st.integers(0, 5),
    st.sampled_from(STATES),
    st.booleans(),
    st.sampled_from(["none", "accepted", "lost"]),
)


def judge(agenda: Agenda, kept: int | None = None, *args: Any, **other: Any) -> Action:
    return agenda.judge(task(*args, **other), kept)


def test_an_open_round_is_trained_once() -> None:
    agenda = Agenda()
    assert judge(agenda, None, 3) is Action.TRAIN
    agenda.finish(3)
    assert agenda.after == 3
    assert judge(agenda, None, 3) is Action.WAIT
    assert judge(agenda, None, 4) is Action.TRAIN


def test_an_accepted_update_is_waited_for() -> None:
    agenda = Agenda()
    assert judge(agenda, None, 3, mine="accepted") is Action.WAIT
    assert agenda.after == 3


def test_a_lost_update_is_sent_again_or_trained_again() -> None:
    agenda = Agenda()
    agenda.finish(3)
    assert judge(agenda, 3, 3, mine="lost") is Action.RESEND
    assert judge(agenda, None, 3, mine="lost") is Action.TRAIN
    assert judge(agenda, 2, 3, mine="lost") is Action.TRAIN


def test_a_round_that_starts_over_gets_the_kept_update() -> None:
    agenda = Agenda()
    agenda.finish(3)
    assert judge(agenda, 3, 3, mine="none") is Action.RESEND


def test_an_answer_of_a_gateway_that_lags_makes_no_later_round_new() -> None:
    agenda = Agenda()
    agenda.finish(2)
    assert judge(agenda, 1, 1, mine="lost") is Action.RESEND
    agenda.finish(1)
    assert agenda.after == 2
    assert judge(agenda, None, 2, mine="none") is Action.WAIT


def test_a_round_about_to_open_is_not_missed() -> None:
    first, later = Agenda(), Agenda()
    assert judge(first, None, 0, state="waiting") is Action.WAIT
    assert first.after is None
    assert judge(later, None, 1, state="waiting") is Action.WAIT
    assert later.after == 0
    agenda = Agenda()
    agenda.finish(4)
    assert judge(agenda, None, 4, state="waiting") is Action.WAIT
    assert agenda.after == 4


def test_not_chosen() -> None:
    agenda = Agenda()
    assert judge(agenda, None, 2, selected=False) is Action.WAIT
    assert agenda.after == 2


@given(st.lists(TASKS), st.none() | st.integers(0, 5))
def test_never_trains_unasked_nor_twice(tasks: list[Task], kept: int | None) -> None:
    agenda = Agenda()
    behind: set[int] = set()
    for t in tasks:
        action = agenda.judge(t, kept)
        assert (action is Action.STOP) == (t.state in {"done", "stopped"})
        if action in {Action.TRAIN, Action.RESEND}:
            assert t.state == "open"
            assert t.selected
            assert t.your_update != "accepted"
            if action is Action.TRAIN and t.round in behind:
                assert t.your_update == "lost"
            agenda.finish(t.round)
            behind.add(t.round)
        elif action is Action.WAIT:
            assert agenda.after is None or agenda.after <= t.round
