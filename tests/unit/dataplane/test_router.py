from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.dataplane.api import Counters
from lifl.dataplane.router import Endpoint, Group, Router
from lifl.wire import PAGE_BYTES, Descriptor, DropReason, Opcode, RouteType, Share

RAW = Descriptor(Opcode.OBJECT, 1, 2, 3, pages=4).pack()


def take(_to: int, _raw: bytes) -> DropReason:
    return DropReason.NONE


def router(domains: dict[int, int]) -> Router:
    made = Router(clock=lambda: 77)
    made.endpoints = {number: Endpoint(domain) for number, domain in domains.items()}
    return made


def test_a_delivery_counts_at_both_ends_and_offers_the_bytes_as_they_are() -> None:
    r = router({1: 0, 2: 0})
    r.endpoints[1].route = (RouteType.ENDPOINT, 2)
    offered = []

    def offer(to: int, raw: bytes) -> DropReason:
        offered.append((to, raw))
        return DropReason.NONE

    assert r.route(1, RAW, offer) is DropReason.NONE
    assert offered == [(2, RAW)]
    nbytes = 4 * PAGE_BYTES
    assert r.counters() == {1: Counters(1, nbytes, 0, 0, 0), 2: Counters(0, 0, 1, nbytes, 77)}
    assert not any(r.drops.values())


@pytest.mark.parametrize("why", [DropReason.DESTINATION_GONE, DropReason.DESTINATION_FULL])
def test_what_the_queue_says_is_the_reason(why: DropReason) -> None:
    r = router({1: 0, 2: 0})
    r.endpoints[1].route = (RouteType.ENDPOINT, 2)
    assert r.route(1, RAW, lambda _to, _raw: why) is why
    assert r.drops[why] == 1
    assert r.counters() == {1: Counters(), 2: Counters()}


def test_another_domain_is_never_offered_anything() -> None:
    r = router({1: 0, 2: 9})
    r.endpoints[1].route = (RouteType.ENDPOINT, 2)
    assert r.route(1, RAW, pytest.fail) is DropReason.DOMAIN  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ([], DropReason.NO_MEMBER),
        ([DropReason.DESTINATION_GONE] * 2, DropReason.NO_MEMBER),
        ([DropReason.DESTINATION_GONE, DropReason.DESTINATION_FULL], DropReason.DESTINATION_FULL),
        ([DropReason.DESTINATION_FULL, DropReason.DESTINATION_GONE], DropReason.DESTINATION_FULL),
        ([DropReason.DESTINATION_FULL, DropReason.NONE], DropReason.NONE),
    ],
)
def test_a_group_fails_only_when_every_member_does(
    states: list[DropReason], reason: DropReason
) -> None:
    members = range(2, 2 + len(states))
    r = router(dict.fromkeys([1, *members], 0))
    r.groups[5] = Group(tuple(map(Share, members)))
    r.endpoints[1].route = (RouteType.GROUP, 5)
    assert r.route(1, RAW, lambda to, _raw: states[to - 2]) is reason


@given(
    size=st.integers(1, 64),
    gone=st.sets(st.integers(0, 63)),
    turn=st.integers(0, 65535),
    sends=st.integers(0, 200),
)
def test_live_members_share_the_load_within_one_round(
    size: int, gone: set[int], turn: int, sends: int
) -> None:
    members = tuple(range(100, 100 + size))
    alive = [m for m in members if m - 100 not in gone]
    r = router(dict.fromkeys([1, *members], 0))
    r.groups[5] = Group(tuple(map(Share, members)))
    r.endpoints[1].route = (RouteType.GROUP, 5)
    r.endpoints[1].turn = turn
    got: Counter[int] = Counter()

    def offer(to: int, _raw: bytes) -> DropReason:
        if to not in alive:
            return DropReason.DESTINATION_GONE
        got[to] += 1
        return DropReason.NONE

    for _ in range(sends):
        r.route(1, RAW, offer)
    if alive:
        assert max(got[m] for m in alive) - min(got[m] for m in alive) <= 1
        assert got.total() == sends
    else:
        assert r.drops[DropReason.NO_MEMBER] == sends


@given(
    runs=st.lists(st.integers(1, 40), min_size=1, max_size=64),
    turn=st.integers(0, 65535),
    had=st.integers(0, 65535),
)
def test_wherever_it_stands_a_whole_turn_gives_everybody_its_run(
    runs: list[int], turn: int, had: int
) -> None:
    """A round that ended early leaves the position anywhere; the next is as exact."""
    r = router(dict.fromkeys([1, *range(100, 100 + len(runs))], 0))
    r.groups[5] = Group(tuple(Share(100 + i, run) for i, run in enumerate(runs)))
    r.endpoints[1].route = (RouteType.GROUP, 5)
    r.endpoints[1].turn, r.endpoints[1].had = turn, had
    got: list[int] = []
    for _ in range(sum(runs)):
        r.route(1, RAW, lambda to, _raw: (got.append(to), DropReason.NONE)[1])
    assert [got.count(100 + i) for i in range(len(runs))] == runs
    switches = sum(a != b for a, b in itertools.pairwise(got))
    assert switches <= len(runs)  # in a row, but for the one that it began with


@given(
    runs=st.lists(st.integers(1, 40), min_size=1, max_size=64),
    turn=st.integers(0, 65535),
    had=st.integers(0, 65535),
)
def test_in_a_new_cycle_everybody_has_his_run_in_the_groups_order(
    runs: list[int], turn: int, had: int
) -> None:
    r = router(dict.fromkeys([1, *range(100, 100 + len(runs))], 0))
    shares = tuple(Share(100 + i, run) for i, run in enumerate(runs))
    r.groups[5] = Group(shares, cycle=8)
    r.endpoints[1] = Endpoint(0, turn, had, 7, (RouteType.GROUP, 5))
    got: list[int] = []
    for _ in range(sum(runs)):
        r.route(1, RAW, lambda to, _raw: (got.append(to), DropReason.NONE)[1])
    assert got == [share.endpoint for share in shares for _ in range(share.run)]


@given(st.binary(max_size=40))
def test_any_bytes_are_delivered_or_counted_once(raw: bytes) -> None:
    r = router({1: 0, 2: 0})
    r.endpoints[1].route = (RouteType.ENDPOINT, 2)
    reason = r.route(1, raw, take)
    assert sum(r.drops.values()) + r.counters()[2].rx_messages == 1
    assert (reason is DropReason.NONE) == (r.counters()[2].rx_messages == 1)
