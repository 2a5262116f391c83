"""How many pods there are to be and which go: against a ReplicaSet that follows its own rules."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.cluster import seats
from controller.cluster.objects import PodView
from controller.cluster.scaling import Held, decide, hold, why
from controller.cluster.seats import MARK
from controller.cluster.targets import Bounds, Target
from lifl.platform.api import Aggregator

from .scaled import deployed, pod

NONE: frozenset[str] = frozenset()


def target(bounds: Bounds = Bounds(), *, reachable: bool = True) -> Target:  # noqa: B008
    return Target(deployed(), bounds, reachable=reachable)


def seat(k: int, job: str = "j") -> Aggregator:
    return Aggregator(f"{job}-agg-{k}", job, "n1")


def seated(count: int) -> list[PodView]:
    return [pod(f"p{k}", f"j-agg-{k}", created=float(k)) for k in range(count)]


def test_a_pod_for_every_seat() -> None:
    steps = decide(target(), seated(2), [seat(k) for k in range(5)], NONE, 0, serves=True)
    assert (steps.replicas, steps.mark, steps.delete) == (5, (), ())


def test_pods_without_a_seat_come_on_top() -> None:
    assert decide(target(), seated(2), [], NONE, 1, serves=True).replicas == 3


def test_what_goes_is_marked_and_counted_no_more() -> None:
    pods = seated(3)
    steps = decide(target(), pods, [seat(0), seat(2)], {pods[1].uid}, 0, serves=True)
    assert steps.mark == (pods[1],)
    assert (steps.replicas, steps.delete) == (2, ())


def test_what_goes_while_another_comes_is_deleted() -> None:
    pods = seated(2)
    steps = decide(target(), pods, [seat(0), seat(7)], {pods[1].uid}, 0, serves=True)
    assert (steps.replicas, steps.mark) == (2, (pods[1],))
    assert [p.uid for p in steps.delete] == [pods[1].uid]


def test_what_is_wanted_again_is_marked_no_more() -> None:
    pods = [replace(seated(1)[0], deletion_cost=MARK)]
    steps = decide(target(), pods, [seat(0)], NONE, 0, serves=True)
    assert (steps.unmark, steps.replicas, steps.delete) == (tuple(pods), 1, ())
    steps = decide(target(), pods, [seat(0)], {pods[0].uid}, 0, serves=True)
    assert (steps.unmark, steps.replicas) == ((), 1)
    assert [p.uid for p in steps.delete] == [pods[0].uid]


def test_of_two_pods_in_one_seat_the_younger_goes() -> None:
    old, new = pod("old", "j-agg-0", created=1.0), pod("new", "j-agg-0", created=2.0)
    steps = decide(target(), [new, old], [seat(0)], NONE, 0, serves=True)
    assert (steps.mark, steps.replicas) == ((new,), 1)
    steps = decide(target(), [old, new], [], NONE, 0, serves=True)
    assert (steps.mark, steps.replicas) == ((new,), 1)


def test_a_pod_without_a_seat_does_not_keep_a_seats_pod_out() -> None:
    idle = pod("idle")
    steps = decide(target(), [idle], [seat(0)], NONE, 0, serves=True)
    assert (steps.replicas, steps.mark) == (1, (idle,))
    assert [p.uid for p in steps.delete] == [idle.uid]


def test_an_old_revision_goes_and_what_merely_failed_may_come_again() -> None:
    pods = seated(2)
    steps = decide(target(reachable=False), pods, [], NONE, 1, serves=False)
    assert (steps.replicas, steps.mark, steps.delete) == (0, (), ())
    steps = decide(target(reachable=False), pods, [seat(0), seat(1)], NONE, 0, serves=True)
    assert steps.replicas == 2


def test_the_maximum_cuts_off() -> None:
    wanted = [seat(k) for k in range(5)]
    steps = decide(target(Bounds(0, 3)), [], wanted, NONE, 0, serves=True)
    assert (steps.replicas, steps.limited) == (3, 2)


def test_the_reason_in_words() -> None:
    wanted = [seat(0), seat(1), seat(0, "b")]
    assert why(wanted, 0) == "3 aggregators wanted: 1 by job b, 2 by job j"
    assert why([], 1) == "1 aggregator wanted: 1 for requests without a job"
    assert why([], 0) == "0 aggregators wanted"
    assert why([], 0, 3) == "3 aggregators wanted: 3 for the minimum"


def test_what_was_asked_for_is_held_for_a_while() -> None:
    held = hold(Held(), 1, NONE, 100.0, 30.0)
    assert held.count == 1
    held = hold(held, 0, frozenset({"a"}), 129.0, 30.0)  # its pod is seen: it counts from now
    held = hold(held, 0, frozenset({"a"}), 158.0, 30.0)
    assert held.count == 1
    held = hold(held, 0, frozenset({"a"}), 159.5, 30.0)
    assert held.count == 0
    assert hold(held, 0, frozenset({"a"}), 160.0, 30.0).count == 0
    assert hold(held, 0, frozenset({"a", "b"}), 160.0, 30.0).count == 2


# -- with a ReplicaSet ---------------------------------------------------------------------


class ReplicaSet:
    """Keeps its number as the stock controller does; a scheduler gives new pods their seats."""

    def __init__(self, pods: list[PodView]) -> None:
        self.pods = pods
        self.made = 0

    def order(self, pod: PodView) -> tuple[object, ...]:
        return bool(pod.node), pod.phase == "Running", pod.ready, pod.deletion_cost

    def follow(self, replicas: int) -> None:
        while len(self.pods) > replicas:
            self.pods.remove(min(self.pods, key=self.order))
        while len(self.pods) < replicas:
            self.made += 1
            self.pods.append(pod(f"new{self.made}", node="", created=100.0 + self.made))

    def seat(self, wanted: list[Aggregator]) -> None:
        for waiting in [p for p in self.pods if not p.node]:
            free = seats.open_seats(wanted, self.pods)
            name, job = (free[0].name, free[0].job) if free else ("", "")
            self.pods.remove(waiting)
            self.pods.append(
                replace(waiting, node="n1", seat=name, job=job, phase="Running", ready=True)
            )

    def do(self, steps: object) -> None:
        marks = {p.uid: MARK for p in steps.mark}  # type: ignore[attr-defined]
        marks |= {p.uid: 0 for p in steps.unmark}  # type: ignore[attr-defined]
        self.pods = [replace(p, deletion_cost=marks.get(p.uid, p.deletion_cost)) for p in self.pods]
        self.follow(steps.replicas)  # type: ignore[attr-defined]
        gone = {p.uid for p in steps.delete}  # type: ignore[attr-defined]
        self.pods = [p for p in self.pods if p.uid not in gone]
        self.follow(steps.replicas)  # type: ignore[attr-defined]


@given(
    st.lists(st.sampled_from(["seat", "marked", "idle", "unready", "waiting"]), max_size=8),
    st.sets(st.integers(0, 11), max_size=8),
    st.sets(st.integers(0, 7), max_size=4),
    st.integers(0, 2),
    st.booleans(),
)
def test_every_seat_gets_a_pod_and_what_works_stays(
    kinds: list[str], wanted: set[int], stopped: set[int], extra: int, seat_in_time: bool
) -> None:
    pods = []
    for k, kind in enumerate(kinds):
        name = f"j-agg-{k}" if kind in ("seat", "marked", "unready") else ""
        known = pod(f"p{k}", name, node="" if kind == "waiting" else "n1", created=float(k))
        if kind == "marked":
            known = replace(known, deletion_cost=MARK)
        pods.append(replace(known, ready=False) if kind == "unready" else known)
    seats_wanted = [seat(k) for k in sorted(wanted - stopped)]
    names = {s.name for s in seats_wanted}
    going = frozenset(p.uid for p in pods if p.seat and p.seat not in names)
    working = {p.uid for p in pods if p.seat in names and p.ready}
    replicaset = ReplicaSet(pods)
    for _ in range(4):
        if seat_in_time:
            replicaset.seat(seats_wanted)
        replicaset.do(decide(target(), replicaset.pods, seats_wanted, going, extra, serves=True))
    replicaset.seat(seats_wanted)
    last = decide(target(), replicaset.pods, seats_wanted, going, extra, serves=True)
    assert (last.mark, last.unmark, last.delete) == ((), (), ())
    assert last.replicas == len(replicaset.pods) == len(names) + extra
    assert {p.seat for p in replicaset.pods if p.seat} == names
    assert working <= {p.uid for p in replicaset.pods}
