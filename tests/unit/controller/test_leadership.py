from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest

from controller.clients.api import Cluster
from controller.cluster.election import Timing
from controller.leadership import Leadership
from lifl.errors import Unavailable

QUICK = Timing(lease=4.0, renew=0.5, retry=0.05)  # so long a lease that a busy machine is no loss


class FakeApi:
    """One Lease; :attr:`hang` keeps whoever asks for it waiting."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked = threading.Event()
        self.error: Exception | None = None

    def find(self, kind: Any, name: str, namespace: str) -> dict[str, Any] | None:
        self.asked.set()
        assert self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        return self.lease

    get = find

    def create(self, kind: Any, body: dict[str, Any], namespace: str) -> dict[str, Any]:
        self.lease = body
        return body

    replace = create


class Rig:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.started, self.lost = threading.Event(), threading.Event()
        self.losses = 0
        self.leadership = Leadership(
            cast(Cluster, self.api),
            "lifl-system",
            "me",
            on_started=self.started.set,
            on_lost=self.lose,
            timing=QUICK,
        )

    def lose(self) -> None:
        self.losses += 1
        self.lost.set()


pytestmark = pytest.mark.usefixtures("no_leaks")


def test_a_request_that_hangs_does_not_keep_a_leader_from_losing_in_time() -> None:
    rig = Rig()
    rig.leadership.start()
    assert rig.started.wait(10)
    assert rig.leadership.leading
    rig.api.go_on.clear()
    began = time.monotonic()
    assert rig.lost.wait(10)
    assert time.monotonic() - began < QUICK.lease
    assert not rig.leadership.leading
    rig.api.go_on.set()  # the answer that comes then changes nothing
    rig.leadership.stop()
    assert not rig.leadership.leading
    assert rig.losses == 1
    assert rig.api.lease is not None
    assert rig.api.lease["spec"]["holderIdentity"] == "me"  # it runs out by itself


def test_an_answer_that_took_too_long_is_not_acted_on() -> None:
    rig = Rig()
    rig.api.go_on.clear()
    rig.leadership.start()
    assert rig.api.asked.wait(10)
    time.sleep(QUICK.renew + 0.1)
    started_before: list[bool] = []

    def find(kind: Any, name: str, namespace: str) -> dict[str, Any] | None:
        started_before.append(rig.started.is_set())
        return rig.api.lease

    rig.api.find = find  # type: ignore[method-assign]
    rig.api.go_on.set()
    assert rig.started.wait(10)
    assert started_before[0] is False
    assert rig.leadership.leading
    assert rig.losses == 0
    rig.leadership.stop()


def test_errors_of_any_kind_are_lived_through() -> None:
    rig = Rig()
    rig.api.error = Unavailable("away")
    rig.leadership.start()
    assert rig.api.asked.wait(10)
    rig.api.error = KeyError("spec")
    rig.api.asked.clear()
    assert rig.api.asked.wait(10)
    assert not rig.started.is_set()
    rig.api.error = None
    assert rig.started.wait(10)
    rig.leadership.stop()
    assert rig.losses == 0
    assert rig.api.lease is not None
    assert rig.api.lease["spec"]["holderIdentity"] == ""


def test_it_can_be_stopped_when_it_cannot_be_given_up() -> None:
    rig = Rig()
    rig.leadership.start()
    assert rig.started.wait(10)
    rig.api.error = Unavailable("away")
    rig.leadership.stop()
    assert not rig.leadership.leading
    assert rig.losses == 0


def test_one_that_was_never_started_can_be_stopped() -> None:
    Rig().leadership.stop()


def test_the_callback_of_a_loss_may_stop_it() -> None:
    rig = Rig()
    done = threading.Event()

    def lose() -> None:
        rig.leadership.stop()
        done.set()

    rig.leadership._on_lost = lose
    rig.leadership.start()
    assert rig.started.wait(10)
    assert rig.api.lease is not None
    taken = {**rig.api.lease["spec"], "holderIdentity": "thief"}
    rig.api.lease = {**rig.api.lease, "spec": taken}
    assert done.wait(10)
    rig.leadership.stop()
