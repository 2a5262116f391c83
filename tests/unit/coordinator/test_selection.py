from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from functions.coordinator.selection import SelectionRules, choose, complete, enough

NAMES = [f"c{i}" for i in range(50)]


def pick(rules, known=NAMES, round_number=1, attempt=1, silent=()):
    return choose(rules, known, round_number=round_number, attempt=attempt, silent=silent)


@given(
    known=st.integers(0, 50),
    per_round=st.integers(1, 30),
    over=st.floats(0, 2),
    silent=st.integers(0, 50),
    seed=st.integers(0, 3),
)
def test_a_choice_is_distinct_known_and_of_the_right_size(known, per_round, over, silent, seed):
    rules = SelectionRules(per_round, 1, over, seed=seed)
    clients, goal = pick(rules, NAMES[:known], silent=NAMES[:silent])
    assert clients is not None
    assert len(set(clients)) == len(clients) == min(known, rules.wanted)
    assert set(clients) <= set(NAMES[:known])
    assert goal == min(per_round, len(clients))
    assert (clients, goal) == pick(rules, NAMES[:known][::-1], silent=NAMES[:silent])


def test_rounds_attempts_and_seeds_choose_differently():
    rules = SelectionRules(10, 1)
    choices = {
        pick(rules).clients,
        pick(rules, round_number=2).clients,
        pick(rules, attempt=2).clients,
        pick(SelectionRules(10, 1, seed=5)).clients,
    }
    assert len(choices) == 4


def test_every_client_gets_its_turn():
    rules = SelectionRules(10, 1)
    counts = dict.fromkeys(NAMES, 0)
    for r in range(500):
        for client in pick(rules, round_number=r).clients or ():
            counts[client] += 1
    assert min(counts.values()) > 60 and max(counts.values()) < 140


def test_silent_clients_come_last():
    rules = SelectionRules(20, 1)
    assert not set(pick(rules, silent=NAMES[:30]).clients or ()) & set(NAMES[:30])
    assert len(set(pick(rules, silent=NAMES[:40]).clients or ()) & set(NAMES[:40])) == 10


def test_over_provisioning_rounds_up_but_not_by_float_noise():
    assert SelectionRules(10, 1, 0.25).wanted == 13
    assert SelectionRules(10, 1, 0.1).wanted == 11
    assert SelectionRules(10, 1, 0.0).wanted == 10


def test_everyone_needs_nobody_known():
    rules = SelectionRules(5, 3, everyone=True)
    assert pick(rules, []) == (None, 5)
    assert enough(rules, 0) and complete(rules, 0)


def test_enough_is_the_minimum_complete_is_all_that_are_wanted():
    rules = SelectionRules(10, 4, 0.5)
    assert [enough(rules, n) for n in (3, 4)] == [False, True]
    assert [complete(rules, n) for n in (14, 15)] == [False, True]
