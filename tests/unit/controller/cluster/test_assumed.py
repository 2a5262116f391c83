from __future__ import annotations

from dataclasses import replace

from controller.cluster.assumed import SECONDS, Assumed
from controller.cluster.objects import PodView
from controller.cluster.packing import Bind

POD = PodView("lifl", "p", "u")
OTHER = PodView("lifl", "q", "v")
BIND = Bind(POD, "n1", "digits-agg-0", "digits", "aggregator")


def test_nothing_assumed_changes_nothing() -> None:
    assert Assumed().over([POD, OTHER], 0.0) == [POD, OTHER]


def test_a_binding_is_believed_for_a_while() -> None:
    assumed = Assumed()
    assumed.add(BIND.seen, 0.0)
    seen = replace(POD, node="n1", seat="digits-agg-0", job="digits")
    assert assumed.over([POD, OTHER], SECONDS - 1) == [seen, OTHER]
    assert assumed.over([POD, OTHER], SECONDS) == [POD, OTHER]
    assert assumed.over([POD, OTHER], 0.0) == [POD, OTHER]


def test_what_is_seen_counts_whatever_was_assumed() -> None:
    assumed = Assumed()
    assumed.add(BIND.seen, 0.0)
    elsewhere = replace(POD, node="n2")
    assert assumed.over([elsewhere], 1.0) == [elsewhere]
    assert assumed.over([POD], 2.0) == [POD]


def test_what_is_deleted_is_forgotten_what_is_ending_ends() -> None:
    assumed = Assumed()
    assumed.add(BIND.seen, 0.0)
    ending = replace(POD, deleting=True)
    assert assumed.over([ending], 1.0) == [replace(BIND.seen, deleting=True)]
    assert assumed.over([OTHER], 1.0) == [OTHER]
    assert assumed.over([POD], 1.0) == [POD]


def test_a_doubt_lasts_until_it_is_resolved() -> None:
    assumed = Assumed()
    assumed.add(BIND.seen, 0.0, doubt=BIND)
    assert assumed.doubts() == [BIND]
    assert assumed.over([POD], 10 * SECONDS) == [BIND.seen]
    assumed.add(BIND.seen, 0.0)
    assert assumed.doubts() == []
    assumed.add(BIND.seen, 0.0, doubt=BIND)
    assumed.drop(POD)
    assert assumed.doubts() == []
    assert assumed.over([POD], 0.0) == [POD]
