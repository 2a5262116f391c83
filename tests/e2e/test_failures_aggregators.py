"""Aggregators that die, stop, or come back to life in the middle of a round: the same mean.

One platform for each data plane. The fault is armed before the round's updates are posted, so
that it happens while they are summed; afterwards the process must really have died, the model
must be the one of a round without a fault, and nothing may be left in the pool. A fault may split
a tree's sum into several that are divided on their own, so there the model is the same within
float32's rounding; one aggregator alone divides once, so there it is the same bit for bit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from .kit import Job, Platform, freeze, kill_tree, platform, wait_for
from .rounds import CLIENTS, Rounds, gone, leaves_of, same_bits, top_of

POINTS = ["after-take", "after-open", "after-add", "before-seal", "after-seal", "before-send"]


@pytest.fixture(scope="module", params=["socket", pytest.param("ebpf", marks=pytest.mark.ebpf)])
def running(request: pytest.FixtureRequest) -> Iterator[Platform]:
    with platform(dataplane=request.param) as up:
        yield up


@pytest.fixture(scope="module")
def rounds(running: Platform) -> Rounds:
    """A tree of three leaves and a top."""
    return Rounds(running, "tree")


@pytest.fixture(scope="module")
def alone(running: Platform) -> dict[str, Rounds]:
    """A top that sums everything, by timing."""
    return {
        timing: Rounds(running, f"alone-{timing}", fan_in=CLIENTS, timing=timing)
        for timing in ("eager", "lazy")
    }


@pytest.mark.parametrize("level", ["leaf", "top"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_step(running: Platform, rounds: Rounds, point: str, level: str) -> None:
    number = rounds.begin()
    job = rounds.job
    victim = top_of(job) if level == "top" else leaves_of(job)[0]
    armed = running.arm(point, victim)
    job.deliver_all(number)
    gone(armed)
    rounds.end(number)


@pytest.mark.parametrize("timing", ["eager", "lazy"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_alone_the_model_has_the_same_bits(
    running: Platform, alone: dict[str, Rounds], point: str, timing: str
) -> None:
    rounds = alone[timing]
    number = rounds.begin()
    armed = running.arm(point)
    rounds.job.deliver_all(number)
    gone(armed)
    same_bits(rounds.end(number), rounds.undisturbed)


def test_one_after_the_other_is_killed(running: Platform, rounds: Rounds) -> None:
    """A leaf with an update in its sum, then whoever takes that over, then the top."""
    number = rounds.begin()
    armed = [running.arm(p) for p in ("after-add", "before-seal", "after-seal")]
    armed.append(running.arm("after-take", top_of(rounds.job)))
    rounds.job.deliver_all(number)
    for file in armed:
        gone(file)
    rounds.end(number)


def test_all_are_killed_at_once_with_all_that_they_hold(running: Platform, rounds: Rounds) -> None:
    """Worker and master of each: only the controller can bring others."""
    number = rounds.begin()
    job = rounds.job
    for client in range(CLIENTS - 1):
        job.deliver(client, number)
    wait_for(lambda: running.usage(job.name).taken or None, "an update in a sum")
    for aggregator in running.aggregators(job.name).values():
        kill_tree(aggregator)
    job.deliver(CLIENTS - 1, number)
    rounds.end(number)


def test_descriptors_lost_in_a_killed_receivers_queue(running: Platform, rounds: Rounds) -> None:
    """All are stopped, the updates' descriptors lie in their sockets, and all are killed."""
    number = rounds.begin()
    job = rounds.job
    workers = running.workers(job.name)
    for pid in workers.values():
        freeze(pid)
    job.deliver_all(number)
    usage = running.usage(job.name)
    assert (usage.sealed, usage.taken) == (CLIENTS + 1, 0)  # and the model
    for pid in workers.values():
        os.kill(pid, signal.SIGKILL)
    rounds.end(number)


def test_descriptors_sent_twice(running: Platform, rounds: Rounds) -> None:
    """Stopped aggregators take nothing, so the agent sends each object again and again."""
    number = rounds.begin()
    job = rounds.job
    before = running.events()["redispatches"]
    workers = running.workers(job.name)
    for pid in workers.values():
        freeze(pid)
    job.deliver_all(number)
    wait_for(
        lambda: running.events()["redispatches"] >= before + 2 * CLIENTS,
        "each descriptor to be sent three times",
    )
    for pid in workers.values():
        os.kill(pid, signal.SIGCONT)
    rounds.end(number)


@pytest.mark.parametrize("wakes", ["in the round", "after it"])
def test_a_zombie_whose_leases_were_taken_back(
    running: Platform, rounds: Rounds, wakes: str
) -> None:
    """It holds an update, sleeps, is given up, and wakes: its sum must not count."""
    number = rounds.begin()
    job = rounds.job
    job.deliver(0, number)
    holder = wait_for(lambda: holder_of(running, job), "a leaf to hold the update")
    zombie = psutil.Process(running.workers(job.name)[holder])
    zombie.suspend()
    with running.admin() as admin:
        assert admin.fence(holder) == 1
    for client in range(1, CLIENTS - 1):
        job.deliver(client, number)
    if wakes == "in the round":
        zombie.resume()
        registered_anew(running, job, holder, zombie.pid)
    job.deliver(CLIENTS - 1, number)
    rounds.end(number)
    if wakes == "after it":
        zombie.resume()
        registered_anew(running, job, holder, zombie.pid)
    assert "the agent gave this function up" in running.log(holder)


def holder_of(on: Platform, job: Job) -> str | None:
    """Return the aggregator that got the round's first update and added it."""
    with on.admin() as admin:
        rows = [r for r in admin.endpoints() if r["domain"] == job.name]
    if on.usage(job.name).taken != 1:
        return None
    got = [r for r in rows if r["name"] in leaves_of(job)]
    return str(max(got, key=lambda r: r["counters"]["last_arrival_ns"])["name"])


def registered_anew(on: Platform, job: Job, name: str, pid: int) -> None:
    wait_for(lambda: on.workers(job.name).get(name) == pid or None, f"{name} to register anew")
