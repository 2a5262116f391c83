"""SDK clients train on three nodes while one process after another is killed: every model is right.

The clients do nothing about it: polls, uploads and what has to be sent again are the SDK's.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

from lifl.platform import doctor

from .kit import Job, Platform, kill_tree, platform, samples_of, update_of, wait_for

CLIENTS = 6
ROUNDS = 16


class Crowd:
    """Clients that post their updates of a round when they are let go, and the rounds they saw."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.go = [threading.Event() for _ in range(ROUNDS + 1)]

    def leave(self) -> None:
        """End the job and let everybody go."""
        for event in self.go:
            event.set()
        wait_for(lambda: self.job.stop() or True, "the job to stop")

    def take_part(self, client: int) -> str:
        with self.job.sdk(client) as fl:
            for turn in fl.rounds():
                assert self.go[turn.number].wait(60), f"round {turn.number} did not begin"
                new = update_of(client, turn.number)
                turn.submit(new, num_samples=samples_of(client))
            return fl.state


def victims(on: Platform, name: str) -> list[str]:
    """Return everybody who may be killed, by name."""
    standing = [n for n, row in on.state["processes"].items() if row["pid"] is not None]
    return sorted([*standing, *on.aggregators(name)])


def kill(on: Platform, name: str) -> None:
    aggregators = on.aggregators()
    kill_tree(aggregators[name] if name in aggregators else on.process(name))


def test_one_after_the_other() -> None:
    draw = random.Random(8)
    with platform(
        nodes=3,
        dataplane=doctor.default_dataplane()[0],
        LIFL_NODE_CAPACITY="2",
        LIFL_NODE_TIMEOUT="5",
    ) as on:
        job = on.submit("anything", clients=CLIENTS, rounds=ROUNDS)
        crowd = Crowd(job)
        with ThreadPoolExecutor(CLIENTS) as threads:
            ends = [threads.submit(crowd.take_part, client) for client in range(CLIENTS)]
            try:
                for number in range(1, ROUNDS + 1):
                    job.open_round(number - 1)
                    chosen = draw.sample(victims(on, job.name), 2)
                    killer = threading.Timer(draw.uniform(0, 0.08), kill, (on, chosen[0]))
                    killer.start()
                    crowd.go[number].set()
                    kill(on, chosen[1])
                    killer.join()
                    job.check(number)
            except BaseException:
                crowd.leave()
                raise
            assert {end.result() for end in ends} == {"done"}
        history = wait_for(job.history, "the history: who was killed last may be starting yet")
        assert [r["aggregated"] for r in history] == [CLIENTS] * ROUNDS
