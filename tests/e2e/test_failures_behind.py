"""With checkpoints behind: the coordinator killed at any step, and everything that held a version.

Only the latter loses one, and then the job goes on with the one before, under a new number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lifl.platform import doctor

from .kit import Platform, kill_tree, platform, wait_for
from .rounds import Rounds, gone


@pytest.fixture(scope="module")
def behind() -> Iterator[Platform]:
    with platform(dataplane=doctor.default_dataplane()[0], LIFL_CHECKPOINT_BEHIND="on") as up:
        yield up


@pytest.fixture(scope="module")
def rounds(behind: Platform) -> Rounds:
    return Rounds(behind, "behind")


@pytest.mark.parametrize(
    "point",
    ["computed", "sealed-behind", "committed", "sealed-model", "written", "synced", "kept"],
)
def test_the_coordinator_dies_and_the_job_goes_on(
    behind: Platform, rounds: Rounds, point: str
) -> None:
    number = rounds.begin()
    armed = behind.arm(point)
    rounds.job.deliver_all(number)
    gone(armed)
    rounds.end(number)
    number = rounds.begin()
    rounds.job.deliver_all(number)
    rounds.end(number)


def test_a_version_is_lost_with_everything_that_held_it(behind: Platform, rounds: Rounds) -> None:
    number = rounds.begin()
    job = rounds.job
    before = job.model()
    standing = ["agent-0", "gateway-0", "controller", "coordinator"]
    victims = {name: behind.process(name) for name in standing}
    with behind.nothing_restarted():
        armed = behind.arm("written")
        job.deliver_all(number)
        gone(armed)  # that was a worker; its master, with no pool of its own, starts another
        for victim in (*victims.values(), *behind.aggregators().values()):
            kill_tree(victim)
    for name, victim in victims.items():
        behind.back(victim, name)
    again = wait_for(lambda: job.current()["round"] == number + 2 and job.model(), "the next round")
    for name, array in before.items():
        np.testing.assert_array_equal(again[name], array)
    assert job.status()["version"] == number + 1
    job.open_round(number + 1)
    job.deliver_all(number + 2)
    rounds.end(number + 2)
    versions = [h["version"] for h in job.history()]
    assert versions == [v for v in range(1, number + 3) if v != number + 1]
