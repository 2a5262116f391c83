"""Three nodes: one mean, each partial sum across once; a node is lost, or a transfer cut in two.

Each node has room for four updates, so that twelve clients use all three: two leaves and a
middle on each, the top on one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lifl.platform import doctor

from .kit import Job, Platform, freeze, platform, wait_for
from .rounds import Rounds, gone

NODES = 3
CLIENTS = 12


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    with platform(
        nodes=NODES,
        dataplane=doctor.default_dataplane()[0],
        LIFL_NODE_CAPACITY="4",
        LIFL_NODE_TIMEOUT="1.5",
    ) as up:
        yield up


@pytest.fixture(scope="module")
def rounds(running: Platform) -> Rounds:
    return Rounds(running, "nodes", clients=CLIENTS)


def transfers(on: Platform) -> float:
    """Return how many partial sums all gateways have received from other nodes."""
    name = "lifl_gateway_transfers_total"
    return sum(on.metric(on.gateway_url(node), name) for node in range(NODES))


def clients_of(job: Job, node: str) -> list[int]:
    """Return the clients that placement has mapped to a node."""
    return sorted(int(c[1:]) for c, at in job.plan()["clients"].items() if at == node)


def top_node(job: Job) -> str:
    return next(r["node"] for r in job.plan()["roles"] if r["parent"] is None)


def middle_of(job: Job, node: str) -> str:
    roles = job.plan()["roles"]
    return next(r["name"] for r in roles if (r["level"], r["node"]) == ("middle", node))


def lesser(job: Job) -> int:
    """Return the number of a node that is neither the coordinator's nor the top's."""
    return next(n for n in (2, 1) if f"node-{n}" != top_node(job))


def test_the_same_mean_as_one_node_and_each_partial_crosses_once(
    running: Platform, rounds: Rounds
) -> None:
    before = transfers(running)
    number = rounds.begin()
    job = rounds.job
    assert [len(clients_of(job, f"node-{n}")) for n in range(NODES)] == [4, 4, 4]
    job.deliver_all(number)
    model = rounds.end(number)
    assert transfers(running) - before == NODES - 1
    with platform(dataplane="socket") as single:
        alone = single.submit("alone", clients=CLIENTS, rounds=1)
        alone.open_round()
        alone.deliver_all(1)
        same = alone.check(1)
    np.testing.assert_allclose(model["mark"], same["mark"], rtol=1e-6)
    np.testing.assert_allclose(model["whole"], same["whole"], rtol=0, atol=5e-4)


def test_any_gateway_takes_any_clients_update(running: Platform, rounds: Rounds) -> None:
    number = rounds.begin()
    for client in range(CLIENTS):
        rounds.job.deliver(client, number, url=running.gateway_url(client % NODES))
    rounds.end(number)


@pytest.mark.parametrize("point", ["after-take", "before-seal", "after-seal"])
def test_a_middle_dies(running: Platform, rounds: Rounds, point: str) -> None:
    number = rounds.begin()
    armed = running.arm(point, middle_of(rounds.job, f"node-{lesser(rounds.job)}"))
    rounds.job.deliver_all(number)
    gone(armed)
    rounds.end(number)


@pytest.mark.parametrize("point", ["shipped", "arrived", "transferred"])
def test_a_gateway_dies_in_the_middle_of_a_transfer(
    running: Platform, rounds: Rounds, point: str
) -> None:
    """The sender before it lets go of its copy, or the receiver before or after its seal."""
    number = rounds.begin()
    armed = running.arm(point)
    rounds.job.deliver_all(number)
    gone(armed)
    rounds.end(number)


def test_a_lost_node_s_clients_are_asked_again(running: Platform, rounds: Rounds) -> None:
    """Its middle still waits for the last update, so nothing has left the node."""
    number = rounds.begin()
    job = rounds.job
    victim = lesser(job)
    theirs = clients_of(job, f"node-{victim}")[:-1]
    for client in theirs:
        job.deliver(client, number, url=running.gateway_url(victim))
    with running.without(victim):
        for client in theirs:
            asked = job.current(client, after=number, wait=20)
            assert (asked["round"], asked["your_update"]) == (number, "lost")
        job.deliver_all(number)
        job.check(number)
        assert f"node-{victim}" not in running.nodes()
    number = rounds.begin()
    job.deliver_all(number)
    rounds.end(number)


def test_a_node_is_lost_with_its_partials_while_the_round_closes(
    running: Platform, rounds: Rounds
) -> None:
    """Its middle sleeps, so the leaves' sums do not leave the node before it dies."""
    number = rounds.begin()
    job = rounds.job
    victim = lesser(job)
    theirs = clients_of(job, f"node-{victim}")
    middle = middle_of(job, f"node-{victim}")
    freeze(running.workers(job.name, victim)[middle])
    job.deliver_all(number)
    assert job.status()["phase"] == "closing"
    with running.without(victim):
        for client in theirs:
            asked = job.current(client, after=number, wait=20)
            assert (asked["round"], asked["your_update"]) == (number, "lost")
        for client in theirs:
            job.deliver(client, number)
        job.check(number)
    number = rounds.begin()
    job.deliver_all(number)
    rounds.end(number)


def test_a_round_closes_with_what_a_lost_node_has_left(running: Platform) -> None:
    job = running.submit("enough", clients=CLIENTS, rounds=1, minimum=CLIENTS - 4, deadline=8.0)
    job.open_round()
    victim = lesser(job)
    theirs = clients_of(job, f"node-{victim}")
    for client in theirs[:2]:
        job.deliver(client, 1, url=running.gateway_url(victim))
    wait_for(lambda: job.status()["accepted"] == 2 or None, "two updates")
    left = sorted(set(range(CLIENTS)) - set(theirs))
    with running.without(victim):
        for client in left:
            job.deliver(client, 1)
        job.check(1, left)
    assert job.wait_over() == "done"
    assert [r["aggregated"] for r in job.history()] == [len(left)]
