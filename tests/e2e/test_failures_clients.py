"""Clients that hang up, repeat themselves, come late, or never come.

What a client can send that is wrong in itself is in test_hostile_input.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from lifl.client import Round

from .kit import Answer, Platform, document, samples_of, update_of, wait_for
from .rounds import CLIENTS, Rounds


@pytest.fixture(scope="module")
def rounds(running: Platform) -> Rounds:
    return Rounds(running, "clients")


def refused(answer: Answer, status: int, code: str) -> None:
    """Check that an answer is a problem document that says what and where."""
    assert (answer.status, answer.code) == (status, code), answer.json
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["detail"]
    assert answer.json["instance"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.99])
def test_a_client_hangs_up_in_its_upload(running: Platform, rounds: Rounds, share: float) -> None:
    number = rounds.begin()
    job = rounds.job
    body = document(update_of(0, number))
    with job.raw() as sock:
        sock.sendall(job.head(0, number, len(body)) + body[: int(share * len(body))])
        wait_for(lambda: job.status()["uploading"] == 1 or None, "the claim")
    wait_for(lambda: job.status()["uploading"] == 0 or None, "the claim to be given back")
    usage = running.usage(job.name)
    assert (usage.writing, usage.sealed, usage.taken) == (0, 1, 0)
    job.deliver_all(number)
    rounds.end(number)


def test_the_second_post_is_answered_like_the_first(rounds: Rounds) -> None:
    number = rounds.begin()
    job = rounds.job
    first, second = job.post(0, number), job.post(0, number)
    assert (first.status, second.status) == (202, 202)
    assert second.json == first.json | {"duplicate": True}
    other = job.request(0, number, document(update_of(1, number)))
    refused(other, 409, "duplicate-differs")
    for client in range(1, CLIENTS):
        job.deliver(client, number)
    late = job.post(0, number)
    assert (late.status, late.json) == (202, second.json)
    rounds.end(number)


def test_twice_at_the_same_moment(rounds: Rounds) -> None:
    """An upload that is overtaken by another of the same client does not count; one does."""
    number = rounds.begin()
    job = rounds.job
    clients = [i % CLIENTS for i in range(2 * CLIENTS)]
    with ThreadPoolExecutor(len(clients)) as threads:
        answers = list(threads.map(lambda c: job.post(c, number), clients))
    for client in range(CLIENTS):
        mine = [a for a, c in zip(answers, clients, strict=True) if c == client]
        taken = [a for a in mine if a.status == 202]
        assert len({a.json["serial"] for a in taken}) == 1, mine
        for overtaken in (a for a in mine if a.status != 202):
            refused(overtaken, 409, "claim-gone")
    rounds.end(number)


def test_early_late_and_in_another_round(rounds: Rounds) -> None:
    number = rounds.begin()
    job = rounds.job
    refused(job.post(0, number + 1), 409, "wrong-round")
    refused(job.post(0, number + 1000), 409, "wrong-round")
    refused(job.post(0, number - 2), 409, "wrong-round")
    assert job.post(0, number - 1).json["duplicate"]
    differs = job.request(0, number - 1, document(update_of(0, number)))
    refused(differs, 409, "duplicate-differs")
    wrong_base = {"LIFL-Base-Version": str(number - 2)}
    refused(job.post(0, number, headers=wrong_base), 409, "wrong-base-version")
    job.deliver_all(number)
    rounds.end(number)


@pytest.mark.parametrize(
    ("change", "status", "code", "where"),
    [
        ({"w": np.zeros(959, np.float32)}, 422, "wrong-shape", "w"),
        ({"w": np.zeros(960, np.int32)}, 422, "wrong-dtype", "w"),
        ({"w": np.full(960, np.nan, np.float32)}, 422, "not-finite", "w"),
        ({"extra": np.zeros(1, np.float32)}, 422, "unknown-tensor", "extra"),
        ({"extra": np.zeros(1 << 20, np.float32)}, 413, "too-large", ""),
    ],
    ids=["shape", "dtype", "NaN", "names", "size"],
)
def test_wrong_in_itself(
    rounds: Rounds, change: dict[str, Any], status: int, code: str, where: str
) -> None:
    number = rounds.begin()
    job = rounds.job
    answer = job.request(0, number, document(update_of(0, number) | change))
    refused(answer, status, code)
    assert where in answer.json.get("where", "")
    job.deliver_all(number)
    rounds.end(number)


# -- stragglers -----------------------------------------------------------------------------


def test_more_are_asked_than_needed_and_the_slowest_are_too_late(running: Platform) -> None:
    names = [f"c{i}" for i in range(6)]
    job = running.submit("spare", clients=6, rounds=1, perRound=4, overProvision=0.5, names=names)
    asked = job.open_round()
    assert asked["selected"]
    for client in (5, 0, 3, 1):
        job.deliver(client, 1)
    for late in (2, 4):
        answer = job.post(late, 1)
        assert answer.status == 409
        assert answer.code in ("round-closed", "job-over")
    job.check(1, [0, 1, 3, 5])


def test_at_the_deadline_the_round_closes_with_enough(running: Platform) -> None:
    job = running.submit("deadline", clients=5, rounds=2, minimum=3, deadline=1.0)
    job.open_round()
    for client in (0, 2, 4):
        job.deliver(client, 1)
    assert job.current()["deadline_seconds"] <= 1.0
    job.check(1, [0, 2, 4])
    refused(job.post(1, 1), 409, "wrong-round")
    job.deliver_all(2)
    job.check(2)


def test_below_the_minimum_those_who_came_are_asked_again(running: Platform) -> None:
    job = running.submit("again", clients=4, rounds=1, minimum=3, deadline=1.0)
    job.open_round()
    for client in (0, 1):
        job.deliver(client, 1)
    for client in (0, 1):
        asked = job.current(client, after=1, wait=20)
        assert (asked["round"], asked["your_update"]) == (1, "lost")
    job.deliver_all(1, range(3))
    job.check(1, range(3))


def test_the_sdk_brings_again_what_was_lost(running: Platform) -> None:
    """As above, and nobody but the SDK posts: three of four clients, two attempts, one model."""
    job = running.submit("sdk", clients=4, rounds=1, minimum=3, deadline=1.5)
    job.open_round()

    def take_part(client: int) -> list[Round]:
        done = []
        with job.sdk(client) as fl:
            for turn in fl.rounds():
                if client == 2:  # it needs longer than the first attempt lasts
                    wait_for(lambda: job.status()["attempt"] >= 2 or None, "another attempt")
                turn.submit(update_of(client, 1), num_samples=samples_of(client))
                done.append(turn)
        return done

    with ThreadPoolExecutor(3) as threads:
        ends = [threads.submit(take_part, client) for client in range(3)]
        try:
            turns = [end.result(60) for end in ends]
        except BaseException:
            job.stop()
            raise
    job.check(1, range(3))
    assert [len(t) for t in turns[:2]] == [1, 1]
