"""A job is deleted while it runs, and another of the same name is submitted at once.

The second one's model has another shape, so nothing of the first would fit it.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from lifl.client.http import HttpError
from lifl.errors import Unavailable
from lifl.platform import doctor

from .kit import PATIENCE, Arrays, Job, Platform, document, platform, wait_for, zeros

CLIENTS = 4


def wider() -> Arrays:
    return zeros() | {"more": np.zeros(5000, np.float32)}


def delete(on: Platform, name: str) -> None:
    on.access.client(name).json("DELETE", f"/v1/jobs/{name}")


def submit_again(on: Platform, name: str, **options: object) -> Job:
    """Submit until the name is free."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return on.submit(name, clients=CLIENTS, **options)
        except Unavailable as e:
            assert time.monotonic() < deadline, f"{e}\n{on.logs()}"
            time.sleep(0.05)


def model_of(job: Job) -> set[str] | None:
    """Return the names of the tensors that clients get, None while they get none."""
    try:
        return set(job.model(0))
    except AssertionError:
        return None


def gone(job: Job) -> None:
    with pytest.raises(HttpError) as e:
        job.status()
    assert e.value.status == 404


def check_clean(on: Platform, name: str, nodes: int = 1) -> None:
    for node in range(nodes):
        with on.admin(node) as admin:
            assert name not in {d["name"] for d in admin.domains()}
    assert not on.aggregators(name)
    assert not (on.paths.state / "checkpoints" / name).exists()


def test_the_same_name_again_completes(running: Platform) -> None:
    job = running.submit("phoenix", clients=CLIENTS)
    for number in (1, 2, 3):
        job.open_round(number - 1)
        job.deliver_all(number)
        job.check(number)
    job.deliver(0, job.open_round(3)["round"])  # in the middle of a round
    delete(running, job.name)
    gone(job)
    again = submit_again(running, "phoenix", rounds=2)
    assert again.key != job.key
    for number in (1, 2):
        again.open_round(number - 1)
        again.deliver_all(number)
        again.check(number)
    assert again.wait_over() == "done"
    assert [r["aggregated"] for r in again.history()] == [CLIENTS, CLIENTS]


def test_the_same_name_with_another_model(running: Platform) -> None:
    job = running.submit("chameleon", clients=CLIENTS)
    job.open_round()
    job.deliver_all(1)
    job.check(1)
    delete(running, job.name)
    again = submit_again(running, "chameleon", rounds=1, model=wider())
    again.open_round()
    wait_for(lambda: again.view()["model"], "the model to be in the new pool")
    assert wait_for(lambda: model_of(again), "the gateway to serve it") == set(wider())
    for client in range(CLIENTS):
        again.request(client, 1, document(wider()))
    assert again.wait_over() == "done"


def test_nothing_is_left_of_a_deleted_job(running: Platform) -> None:
    job = running.submit("footprint", clients=CLIENTS)
    job.open_round()
    job.deliver_all(1)
    job.check(1)
    assert running.aggregators(job.name)
    delete(running, job.name)
    wait_for(
        lambda: job.name not in running.internal().json("GET", "/internal/v1/watch")["leaving"],
        "the name to be free",
    )
    check_clean(running, job.name)
    assert job.name not in {
        j["job"] for j in running.access.client().json("GET", "/v1/jobs")["jobs"]
    }


def test_a_controller_that_is_away_keeps_the_name(running: Platform) -> None:
    """Only the controller knows that no node has the pool; its successor finds out."""
    job = running.submit("limbo", clients=CLIENTS)
    job.open_round()
    victim = running.process("controller")
    with running.nothing_restarted():
        running.kill("controller")
        delete(running, job.name)
        gone(job)
        with pytest.raises(Unavailable, match="being deleted"):
            running.submit("limbo", clients=CLIENTS)
        running.kill("coordinator")
    running.back(victim, "controller")
    again = submit_again(running, "limbo", rounds=1)
    again.open_round()
    again.deliver_all(1)
    again.check(1)
    assert again.wait_over() == "done"


def test_on_every_node() -> None:
    with platform(nodes=2, dataplane=doctor.default_dataplane()[0], LIFL_NODE_CAPACITY="2") as on:
        job = on.submit("wide", clients=CLIENTS)
        job.open_round()
        job.deliver_all(1)
        job.check(1)
        assert {r["node"] for r in job.plan()["roles"]} == {"node-0", "node-1"}
        delete(on, job.name)
        again = submit_again(on, "wide", rounds=1)
        again.open_round()
        again.deliver_all(1)
        again.check(1)
        assert again.wait_over() == "done"
        delete(on, again.name)
        wait_for(
            lambda: not on.internal().json("GET", "/internal/v1/watch")["leaving"],
            "the name to be free",
        )
        check_clean(on, "wide", nodes=2)
