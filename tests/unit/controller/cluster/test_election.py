from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster import election
from controller.cluster.election import (
    Acquire,
    Observed,
    Record,
    Renew,
    Timing,
    Wait,
    decide,
    observe,
    read,
)

T = Timing()


def held(by: str, renewed: str = "r1", seconds: float = 15.0) -> Record:
    return Record(by, seconds, "a1", renewed, 3)


def test_a_free_lease_is_taken() -> None:
    step = decide(Observed(held(""), 0.0), "me", 0.0, "now", T)
    assert isinstance(step, Acquire)
    assert step.spec == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "now",
        "renewTime": "now",
        "leaseTransitions": 4,
    }


def test_one_s_own_lease_is_renewed_and_keeps_its_beginning() -> None:
    step = decide(Observed(held("me"), 0.0), "me", 100.0, "now", T)
    assert isinstance(step, Renew)
    assert step.spec["acquireTime"] == "a1"
    assert step.spec["renewTime"] == "now"
    assert step.spec["leaseTransitions"] == 3


def test_another_s_lease_is_waited_for_from_when_it_was_seen_to_change() -> None:
    seen = observe(None, held("other"), 100.0)
    assert decide(seen, "me", 100.0, "now", T) == Wait("other", 15.0)
    assert decide(seen, "me", 114.9, "now", T) == Wait("other", pytest.approx(0.1))
    assert isinstance(decide(seen, "me", 115.0, "now", T), Acquire)


def test_any_change_starts_the_time_again_whatever_the_stamps_say() -> None:
    seen = observe(None, held("other", renewed="2026-11-01T12:00:00Z"), 0.0)
    again = observe(seen, held("other", renewed="2026-11-01T12:00:00Z"), 10.0)
    assert again.at == 0.0
    older = observe(again, held("other", renewed="1999-01-01T00:00:00Z"), 14.0)
    assert older.at == 14.0
    assert isinstance(decide(older, "me", 20.0, "now", T), Wait)


def test_the_holder_says_how_long_it_is_good_for() -> None:
    seen = Observed(held("other", seconds=60.0), 0.0)
    assert decide(seen, "me", 30.0, "now", T) == Wait("other", 30.0)


def test_a_record_without_a_length_is_good_for_the_usual_time() -> None:
    seen = Observed(held("other", seconds=0.0), 0.0)
    assert decide(seen, "me", 5.0, "now", T) == Wait("other", 10.0)


def test_a_released_lease_is_free_at_once() -> None:
    left = read(election.released(held("other"), "later"))
    assert left.holder == ""
    assert left.transitions == 3
    assert isinstance(decide(Observed(left, 0.0), "me", 0.0, "now", T), Acquire)


@pytest.mark.parametrize("spec", [None, {}, {"holderIdentity": None, "leaseTransitions": None}])
def test_an_empty_lease_is_free(spec: Mapping[str, Any] | None) -> None:
    assert read(spec) == Record()


def test_what_is_written_is_read_as_it_was() -> None:
    assert read(election.first("me", "now", T)) == Record("me", 15.0, "now", "now", 0)


def test_a_length_is_never_rounded_down() -> None:
    assert election.first("me", "now", Timing(1.2, 0.8, 0.2))["leaseDurationSeconds"] == 2


@pytest.mark.parametrize("times", [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_times_that_allow_two_leaders_are_refused(times: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must last longer"):
        Timing(*times)


def test_stamps_are_microtime() -> None:
    assert election.microtime(1793534400.25) == "2026-11-01T12:00:00.250000Z"


class Candidate:
    """One that looks now and then, by a clock that is ahead by ``skew`` and may be stopped."""

    def __init__(self, name: str, skew: float) -> None:
        self.name = name
        self.skew = skew
        self.observed: Observed | None = None
        self.until = float("-inf")

    def leads(self, now: float) -> bool:
        return now + self.skew < self.until

    def look(self, server: list[Record], now: float, answered: bool) -> None:
        mine = now + self.skew
        self.observed = observe(self.observed, server[0], mine)
        stamp = election.microtime(1.8e9 + mine * 7)
        step = decide(self.observed, self.name, mine, stamp, T)
        if isinstance(step, Wait):
            if server[0].holder != self.name:
                self.until = float("-inf")
            return
        server[0] = read(step.spec)
        if answered:
            self.until = mine + T.renew
            self.observed = Observed(server[0], mine)


looks = st.tuples(
    st.integers(0, 2), st.floats(0.0, 9.0, allow_nan=False), st.sampled_from([True, True, False])
)


@given(st.lists(looks, max_size=60), st.tuples(*[st.floats(-1e6, 1e6)] * 3))
def test_there_are_never_two_leaders_however_clocks_differ(
    steps: list[tuple[int, float, bool]], skews: tuple[float, float, float]
) -> None:
    candidates = [Candidate(f"c{i}", s) for i, s in enumerate(skews)]
    server, now = [Record()], 0.0
    for who, pause, answered in steps:
        now += pause
        candidates[who].look(server, now, answered)
        assert sum(c.leads(now) for c in candidates) <= 1


def test_who_alone_looks_leads() -> None:
    server, one = [held("gone")], Candidate("me", 0.0)
    for now in range(0, 16, 2):
        one.look(server, float(now), True)
        assert one.leads(now) == (now > 15)
    one.look(server, 16.0, True)
    assert one.leads(16.0)
