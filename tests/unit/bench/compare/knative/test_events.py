"""Where updates go, and that events carry all a Broker's Triggers need."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare.knative import events


@given(updates=st.integers(1, 200), fan_in=st.integers(1, 9))
def test_every_leaf_waits_for_exactly_what_it_is_sent(updates: int, fan_in: int) -> None:
    parts = events.plan(updates, fan_in)
    sent = Counter(p.leaf for p in parts)
    assert len(parts) == updates
    assert set(sent) == set(range(events.leaves(updates, fan_in)))
    assert all(p.goal == sent[p.leaf] <= fan_in and p.leaves == len(sent) for p in parts)


def test_an_update_names_its_leaf_and_what_that_is_part_of() -> None:
    about = events.attributes("run.3", 5, events.Part(2, 2, 4), 15)
    assert about == {
        "specversion": "1.0",
        "id": "run.3.5",
        "source": "/clients/5",
        "type": "dev.lifl.update",
        "subject": "run.3.leaf-2",
        "liflleaf": "2",
        "liflgoal": "2",
        "liflsamples": "15",
        "liflparent": "run.3",
        "liflparts": "4",
    }
    assert events.headers(about)["ce-liflparts"] == "4"
    assert events.filters(2).items() <= about.items()


def test_a_leaf_alone_makes_the_mean() -> None:
    about = events.attributes("run.1", 0, events.Part(0, 1, 1), 10)
    assert (about["subject"], about["liflfinal"]) == ("run.1", "1")
    assert "liflparent" not in about


def test_names_of_attributes_are_those_that_cloudevents_allow() -> None:
    for part in (events.Part(0, 1, 1), events.Part(0, 1, 2)):
        for name in events.attributes("s", 0, part, 1):
            assert name.isalnum()
            assert name.islower()
            assert len(name) <= 20


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one update"):
        events.plan(0, 2)
