"""Seats on a cluster: what counts as running, what is wanted, and what is given up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from controller.cluster.objects import PodView
from controller.platform import AVOID_SECONDS, UNKNOWN_SECONDS, ClusterPlatform
from lifl.platform.api import Aggregator

from .cluster.scaled import pod

A, B = Aggregator("j-agg-0", "j", "n1"), Aggregator("j-agg-1", "j", "n2")


class Rig:
    def __init__(self) -> None:
        self.pods: list[PodView] = []
        self.now = 1000.0
        self.told = 0
        self.platform = self.fresh()

    def fresh(self) -> ClusterPlatform:
        """A controller that has just started."""
        return ClusterPlatform(
            lambda: list(self.pods),
            on_wanted=self.tell,
            seat_seconds=60.0,
            clock=lambda: self.now,
        )

    def tell(self) -> None:
        self.told += 1

    def bind(self, seat: Aggregator, name: str = "p", **changes: object) -> None:
        self.pods.append(pod(name, seat.name, job=seat.job, node=seat.node, **changes))

    def change(self, **changes: object) -> None:
        self.pods = [replace(p, **changes) for p in self.pods]  # type: ignore[arg-type]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.platform.close()


def test_a_seat_runs_from_the_moment_it_is_wanted(rig: Rig) -> None:
    rig.platform.start(A, 0)
    rig.platform.start(A, 0)
    assert rig.told == 1
    assert rig.platform.running() == [A]
    rig.bind(A)
    assert rig.platform.running() == [A]
    rig.platform.start(A, 0)
    assert rig.told == 1


def test_what_is_bound_comes_first_so_that_it_is_used_first(rig: Rig) -> None:
    rig.platform.start(A, 0)
    rig.platform.start(B, 0)
    rig.bind(B)
    assert rig.platform.running() == [B, A]


def test_a_waiting_seat_moves_and_a_taken_one_does_not(rig: Rig) -> None:
    moved = replace(A, node="n2")
    rig.platform.start(A, 0)
    rig.platform.start(moved, 0)
    assert rig.platform.running() == [moved]
    rig.bind(A)
    assert rig.platform.running() == [A]


def test_a_restarted_controller_finds_what_is_bound_and_waits_before_it_says_so(rig: Rig) -> None:
    rig.bind(A)
    after = rig.fresh()
    assert after.wanted() is None
    assert after.running() == [A]
    after.start(B, 0)
    assert after.wanted() is None, "the loop was in the middle of its first look"
    after.running()
    assert after.wanted() == [A, B]
    after.close()


def test_without_a_loop_seats_are_known_after_a_while(rig: Rig) -> None:
    rig.bind(A)
    assert rig.platform.wanted() is None
    rig.now += UNKNOWN_SECONDS
    assert rig.platform.wanted() == [A]


def test_a_lost_pods_seat_is_still_wanted(rig: Rig) -> None:
    rig.bind(A)
    rig.platform.running()
    rig.pods.clear()
    assert rig.platform.running() == [A]


def test_stopping_marks_the_pod_and_starting_again_saves_it(rig: Rig) -> None:
    rig.platform.start(A, 0)
    rig.bind(A)
    rig.platform.running()
    rig.platform.stop([A.name, "unknown"])
    assert rig.platform.running() == []
    assert rig.platform.wanted() == []
    assert rig.platform.going() == {"uid-p"}
    rig.platform.start(A, 0)
    assert (rig.platform.going(), rig.platform.running()) == (frozenset(), [A])


def test_a_pod_that_went_is_forgotten(rig: Rig) -> None:
    rig.bind(A)
    rig.platform.running()
    rig.platform.stop([A.name])
    rig.change(deleting=True)
    assert rig.platform.going() == frozenset()
    rig.platform.start(A, 0)
    rig.bind(A, "newer")
    assert rig.platform.running() == [A]


def test_a_seat_without_a_ready_pod_is_given_up_and_its_node_avoided(rig: Rig) -> None:
    rig.platform.start(A, 0)
    assert rig.platform.overdue() == []
    rig.now += 60.0
    assert rig.platform.overdue() == []
    rig.now += 0.1
    (late,) = rig.platform.overdue()
    assert late.seat == A and "no pod was bound" in late.why
    assert rig.platform.running() == []
    assert rig.platform.full_nodes() == {"n1"}
    rig.now += AVOID_SECONDS
    assert rig.platform.full_nodes() == frozenset()


def test_a_pod_that_does_not_become_ready_is_given_up_for_good(rig: Rig) -> None:
    rig.platform.start(A, 0)
    rig.bind(A, ready=False)
    rig.platform.overdue()
    rig.now += 61.0
    (late,) = rig.platform.overdue()
    assert "pod p was not ready" in late.why
    rig.platform.start(A, 0)
    assert rig.platform.going() == {"uid-p"}, "the seat is wanted, but not this pod"
    assert rig.platform.running() == [A]
    rig.bind(A, "newer")
    rig.platform.overdue()
    rig.now += 1000.0
    assert rig.platform.overdue() == []


def test_a_pod_has_its_time_again_after_it_was_ready(rig: Rig) -> None:
    rig.platform.start(A, 0)
    rig.bind(A)
    rig.platform.overdue()
    rig.now += 100.0
    rig.change(ready=False)
    assert rig.platform.overdue() == []
    rig.now += 59.0
    rig.change(ready=True)
    rig.platform.overdue()
    rig.now += 59.0
    rig.change(ready=False)
    assert rig.platform.overdue() == []


def test_users(rig: Rig) -> None:
    assert (rig.platform.user(61000), rig.platform.user(None)) == (61000, 0)


def test_waiting_ends_with_the_wakeup_or_the_time(rig: Rig) -> None:
    read, write = os.pipe()
    rig.platform.wait(read, 0.01)
    os.write(write, b"x")
    waiter = threading.Thread(target=rig.platform.wait, args=(read, 60.0))
    waiter.start()
    waiter.join(30)
    assert not waiter.is_alive()
    os.close(read)
    os.close(write)


def test_waiting_ends_when_a_seats_pod_changes_and_not_when_another_does(rig: Rig) -> None:
    read, write = os.pipe()
    rig.bind(A, ready=False)
    rig.platform.running()
    waiter = threading.Thread(target=rig.platform.wait, args=(read, 60.0))
    waiter.start()
    rig.pods.append(pod("idle"))
    rig.platform.notify()
    waiter.join(0.3)
    assert waiter.is_alive()
    rig.change(ready=True)
    rig.platform.notify()
    waiter.join(30)
    assert not waiter.is_alive()
    os.close(read)
    os.close(write)
