from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.objects import PodView
from controller.cluster.seats import (
    MARK,
    Seat,
    marked,
    needed,
    open_seats,
    replicas,
    seated,
    seatless,
    surplus,
    to_delete,
)

SEATS = [Seat(f"digits-agg-{i}", "digits", f"n{i % 2}") for i in range(6)]


def pod(uid: str, seat: Seat | None = None, **more: object) -> PodView:
    plain = PodView(
        "lifl",
        f"aggregator-{uid}",
        uid,
        node=seat.node if seat else "n0",
        phase="Running",
        scheduler_name="lifl-scheduler",
        function="aggregator",
        job=seat.job if seat else "",
        seat=seat.name if seat else f"aggregator-{uid}",
        ready=True,
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def test_a_seat_is_open_until_a_live_pod_has_it() -> None:
    pods = [pod("a", SEATS[1]), pod("b")]
    assert open_seats(SEATS[:3], pods) == [SEATS[0], SEATS[2]]


def test_a_seat_whose_pod_ends_or_has_ended_is_open_at_once() -> None:
    pods = [
        pod("a", SEATS[0], deleting=True),
        pod("b", SEATS[1], phase="Failed"),
        pod("c", SEATS[2], node=""),
    ]
    assert open_seats(SEATS[:3], pods) == SEATS[:3]


def test_a_seat_wanted_twice_is_one() -> None:
    assert open_seats([SEATS[0], SEATS[0]], []) == [SEATS[0]]


def test_what_somebody_else_bound_or_calls_otherwise_takes_no_seat() -> None:
    pods = [
        pod("a", SEATS[0], scheduler_name="default-scheduler"),
        pod("b", SEATS[1], function="gateway"),
        pod("c", SEATS[2], function=""),
    ]
    assert seated(pods) == {}
    assert open_seats(SEATS[:3], pods) == SEATS[:3]


def test_seatless_pods_are_those_bound_without_a_job_oldest_first() -> None:
    pods = [pod("a", created=2.0), pod("b", created=1.0), pod("c", SEATS[0]), pod("d", node="")]
    assert [p.uid for p in seatless(pods)] == ["b", "a"]


def test_replicas_are_the_seats_wanted_or_taken_and_the_demand() -> None:
    pods = [pod("a", SEATS[0]), pod("b", SEATS[1])]
    assert replicas([], []) == 0
    assert replicas(SEATS[1:4], pods) == 4
    assert replicas(SEATS[1:4], pods, demand=1) == 5
    assert replicas([], [], demand=1) == 1


def test_a_marked_pod_needs_no_replica_unless_its_seat_is_wanted_again() -> None:
    going = pod("a", SEATS[0], deletion_cost=MARK)
    assert replicas([], [going]) == 0
    assert replicas([SEATS[0]], [going]) == 1


def test_bounds() -> None:
    assert replicas([], [], minimum=2) == 2
    assert replicas(SEATS, [], maximum=4) == 4
    assert replicas(SEATS, [], maximum=0) == 6


def test_pods_without_a_seat_that_keep_seats_out_are_surplus() -> None:
    vanilla = [pod("a", created=1.0), pod("b", created=2.0)]
    assert surplus([], vanilla, replicas=2) == []
    assert [p.uid for p in surplus([], vanilla, replicas=1)] == ["b"]
    wanted = SEATS[:3]
    assert surplus(wanted, vanilla, replicas(wanted, vanilla)) == vanilla
    assert surplus(wanted, vanilla, replicas(wanted, vanilla, demand=1)) == vanilla[1:]


def test_a_marked_pod_is_no_surplus_again() -> None:
    pods = [pod("a", created=1.0, deletion_cost=MARK), pod("b", created=2.0)]
    assert surplus([], pods, replicas=1) == []


def test_a_pod_that_is_not_ready_would_go_before_a_marked_one_that_is() -> None:
    going = pod("a", SEATS[0], deletion_cost=MARK)
    assert to_delete([going, pod("b", SEATS[1], ready=False)], replicas=1) == [going]


def test_one_pod_kept_by_the_minimum_is_no_surplus() -> None:
    vanilla = [pod("a")]
    assert surplus([], vanilla, replicas([], vanilla, minimum=1)) == []


def test_a_marked_pod_that_the_replicaset_ends_by_itself_is_left_to_it() -> None:
    pods = [pod("a", SEATS[0], deletion_cost=MARK), pod("b", SEATS[1])]
    assert to_delete(pods, replicas=1) == []


def test_a_marked_pod_that_holds_the_place_of_a_wanted_one_is_deleted() -> None:
    going = pod("a", SEATS[0], deletion_cost=MARK)
    pods = [going, pod("b", SEATS[1])]
    assert to_delete(pods, replicas([SEATS[2]], pods)) == [going]


def test_a_pending_pod_would_go_first_so_the_marked_one_is_deleted() -> None:
    going = pod("a", SEATS[0], deletion_cost=MARK)
    waiting = pod("b", node="", phase="Pending", ready=False, seat="")
    assert to_delete([going, waiting], replicas=1) == [going]


def test_pods_that_end_already_are_not_counted() -> None:
    going = pod("a", SEATS[0], deletion_cost=MARK)
    assert to_delete([going, pod("b", SEATS[1], deleting=True)], replicas=1) == [going]
    assert to_delete([replace(going, deleting=True)], replicas=0) == []


choices = st.tuples(
    st.sampled_from(["seat", "vanilla", "pending"]), st.booleans(), st.booleans(), st.booleans()
)


def crowd(kinds: Sequence[tuple[str, bool, bool, bool]]) -> list[PodView]:
    pods = []
    for i, (kind, mark, ready, deleting) in enumerate(kinds):
        seat = SEATS[i] if kind == "seat" else None
        one = pod(f"{i}", seat, ready=ready, deleting=deleting, created=float(i % 3))
        if kind == "pending":
            one = replace(one, node="", phase="Pending", ready=False, seat="")
        elif mark:
            one = replace(one, deletion_cost=MARK)
        pods.append(one)
    return pods


def replicaset(
    pods: list[PodView], number: int, made: list[int], rng: random.Random
) -> list[PodView]:
    """What a ReplicaSet makes of its live pods; ties are broken at random."""
    live = [p for p in pods if p.live]
    rng.shuffle(live)
    live.sort(key=lambda p: (bool(p.node), p.phase != "Pending", p.ready, p.deletion_cost))
    live = live[max(0, len(live) - number) :]
    while len(live) < number:
        made[0] += 1
        live.append(replace(pod(f"new-{made[0]}"), node="", phase="Pending", ready=False, seat=""))
    return live


@given(
    st.lists(choices, max_size=6),
    st.sets(st.sampled_from(range(6))),
    st.integers(0, 1),
    st.integers(0, 2),
    st.randoms(use_true_random=False),
)
def test_whatever_there_was_in_the_end_the_seats_wanted_can_be_filled(
    kinds: list[tuple[str, bool, bool, bool]],
    wanted_numbers: set[int],
    demand: int,
    minimum: int,
    rng: random.Random,
) -> None:
    pods = [p for p in crowd(kinds) if p.live]
    wanted = [SEATS[i] for i in sorted(wanted_numbers)]
    names = {s.name for s in wanted}
    stay = {p.uid for p in pods if p.seat in names and p.ready and not marked(p)}
    made = [0]
    for _ in range(12):
        count = replicas(wanted, pods, demand, minimum)
        extra = {p.uid for p in surplus(wanted, pods, count)}
        pods = [replace(p, deletion_cost=MARK) if p.uid in extra else p for p in pods]
        gone = to_delete(pods, count)
        assert all(marked(p) for p in gone)
        pods = replicaset(pods, count, made, rng)
        out = {p.uid for p in gone}
        pods = replicaset([p for p in pods if p.uid not in out], count, made, rng)
        for seat in open_seats(wanted, pods):  # the scheduler
            free = next((p for p in pods if not p.node), None)
            if free is not None:
                pods[pods.index(free)] = pod(free.uid, seat)
        pods = [
            p if p.node else replace(p, node="n0", phase="Running", ready=True, seat=p.name)
            for p in pods
        ]
    assert not any(marked(p) for p in pods)
    assert open_seats(wanted, pods) == []
    assert stay <= {p.uid for p in pods if p.seat}
    assert len(pods) == replicas(wanted, pods, demand, minimum)
    assert len(seatless(pods)) <= max(demand, minimum - needed(wanted, pods), 0)


def test_the_order_is_always_the_same() -> None:
    pods = [pod(f"{i}", SEATS[i], deletion_cost=MARK, created=float(i % 2)) for i in range(6)]
    expected = [p.uid for p in to_delete(pods, 6)]
    for seed in range(5):
        mixed = list(pods)
        random.Random(seed).shuffle(mixed)
        assert [p.uid for p in to_delete(mixed, 6)] == expected
