"""The controller killed between any two of its actions: the next one finds out what is left to do.

A platform of its own: who dies often is started again later and later.
"""

from __future__ import annotations

import os
import signal

import pytest

from .kit import Platform, freeze, kill_tree
from .rounds import CLIENTS, Rounds, gone, leaves_of, top_of


@pytest.fixture(scope="module")
def rounds(running: Platform) -> Rounds:
    return Rounds(running, "planned")


@pytest.mark.parametrize("point", ["did-End", "did-Apply", "did-PutPlan", "did-Close", "did-Start"])
def test_the_controller_dies_after_an_action(running: Platform, rounds: Rounds, point: str) -> None:
    number = rounds.begin()
    job = rounds.job
    armed = running.arm(point)
    job.deliver(0, number)
    if point == "did-Start":
        for name in leaves_of(job):
            kill_tree(running.aggregators(job.name)[name])
        gone(armed)
    top = running.workers(job.name)[top_of(job)]
    if point == "did-Close":
        freeze(top)
    for client in range(1, CLIENTS):
        job.deliver(client, number)
    if point == "did-Close":
        gone(armed)
        os.kill(top, signal.SIGCONT)
    rounds.end(number)
    gone(armed)  # what ends a round and plans the next comes after its model


def test_the_controller_dies_while_it_makes_a_new_jobs_pool(running: Platform) -> None:
    armed = running.arm("did-CreateDomain")
    job = running.submit("newcomer", clients=2, rounds=1)
    gone(armed)
    job.open_round()
    job.deliver_all(1)
    job.check(1)
    assert job.wait_over() == "done"
