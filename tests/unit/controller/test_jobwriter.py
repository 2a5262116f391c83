"""When a status is written: when it changed, once a second, and never twice the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from controller import jobwriter
from controller.clients.api import Cluster as RealCluster
from controller.clients.errors import NotFound
from controller.cluster.federatedjob import NOT_YET, Custom, Step, awaiting_model
from controller.coordinator import World
from controller.jobwriter import StatusWriter
from controller.submission import SUBMITTED, Submission
from controller.view import JobView
from lifl.errors import Unavailable

from .jobs_double import Cluster, Coordinator, body

VIEW = JobView.from_json(
    {
        "job": "digits",
        "domain_uid": 1,
        "round": 1,
        "assignment": 1,
        "phase": "open",
        "fan_in": 2,
        "timing": "eager",
        "expected": 10,
    }
)
KEY = ("FederatedJob", "lifl", "digits")


class Rig:
    def __init__(self) -> None:
        self.cluster, self.coordinator = Cluster(), Coordinator()
        self.submission = Submission(
            cast(RealCluster, self.cluster), self.coordinator.url, b"k" * 32
        )
        self.cluster.objects[KEY] = body()
        self.writer = self.new_writer()

    def new_writer(self) -> StatusWriter:
        writer = StatusWriter(
            cast(RealCluster, self.cluster), self.submission, now=lambda: "2026-11-26T10:00:00Z"
        )
        writer.start()
        return writer

    @property
    def custom(self) -> Custom:
        return Custom.parse(self.cluster.objects[KEY])

    @property
    def status(self) -> dict[str, Any]:
        return self.cluster.objects[KEY].get("status", {})

    def submit(self) -> None:
        self.writer.stepped(self.custom, submitted=self.submission.submit(self.custom))

    def run(self, **progress: Any) -> dict[str, Any]:
        """Have the coordinator run the job, and tell that something changed."""
        job = self.coordinator.jobs["digits"]
        job |= {"state": "running", "round": 1, "rounds": 20, "attempt": 1, "version": 0}
        job |= {"goal": 10, "accepted": 0} | progress
        return job

    def tell(self, *views: JobView) -> None:
        self.writer.told(World(1, views, ()))

    def until(self, ask: Callable[[], object], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        with self.cluster.wrote:
            while not ask():
                assert self.cluster.wrote.wait(max(0.0, deadline - time.monotonic())), self.status

    def close(self) -> None:
        self.writer.stop()
        self.submission.close()
        self.coordinator.close()


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(jobwriter, "APART_SECONDS", 0.05)
    monkeypatch.setattr(jobwriter, "RETRY_SECONDS", 0.1)
    made = Rig()
    yield made
    made.close()


def test_a_new_object_gets_a_status(rig: Rig) -> None:
    rig.writer.seen(rig.custom)
    rig.until(lambda: rig.status.get("phase") == "Pending")
    assert rig.coordinator.asked == []


def test_what_the_operator_did_is_shown(rig: Rig) -> None:
    rig.submit()
    rig.writer.stepped(rig.custom, model=awaiting_model("digits"))
    rig.until(lambda: rig.status.get("phase") == "AwaitingModel")
    rig.until(lambda: ("digits", "AwaitingModel", False) in rig.cluster.events)
    assert ("digits", "Submitted", False) in rig.cluster.events


def test_what_the_coordinator_tells_is_shown(rig: Rig) -> None:
    rig.submit()
    rig.until(lambda: rig.status)
    rig.run(accepted=3)
    rig.tell(VIEW)
    rig.until(lambda: rig.status.get("updates") == "3/10")
    rig.run(accepted=4)
    rig.tell(replace(VIEW, accepted=4))
    rig.until(lambda: rig.status.get("updates") == "4/10")


def test_a_view_that_was_told_before_the_object_was_seen(rig: Rig) -> None:
    rig.submission.submit(rig.custom)
    rig.run()
    rig.tell(VIEW)
    rig.writer.stepped(rig.custom, submitted=SUBMITTED)
    rig.until(lambda: rig.status.get("phase") == "Running")


def test_nothing_is_written_or_asked_when_nothing_changed(rig: Rig) -> None:
    rig.submit()
    rig.run()
    rig.tell(VIEW)
    rig.until(lambda: rig.status.get("phase") == "Running")
    time.sleep(0.3)
    asked, patches = len(rig.coordinator.asked), len(rig.cluster.patches)
    for _ in range(20):
        rig.tell(VIEW)
        rig.writer.seen(rig.custom)
        time.sleep(0.01)
    assert (len(rig.coordinator.asked), len(rig.cluster.patches)) == (asked, patches)


def test_at_most_once_in_a_while(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    monkeypatch.setattr(jobwriter, "APART_SECONDS", 0.4)
    rig.submit()
    rig.run()
    rig.until(lambda: rig.status)
    began, before = time.monotonic(), len(rig.cluster.patches)
    for accepted in range(60):
        rig.run(accepted=accepted % 11)
        rig.tell(replace(VIEW, accepted=accepted))
        time.sleep(0.02)
    rig.until(lambda: rig.status.get("updates") == f"{59 % 11}/10")
    seconds = time.monotonic() - began
    assert len(rig.cluster.patches) - before <= seconds / 0.4 + 2


def test_the_accuracy_of_the_last_rated_version(rig: Rig) -> None:
    rig.submit()
    job = rig.run(version=3)
    job["history"] = [
        {"version": 1, "accuracy": 0.5},
        {"version": 2, "accuracy": 0.75},
        {"version": 3, "accuracy": None},
    ]
    rig.tell(VIEW)
    rig.until(lambda: rig.status.get("accuracyPercent") == "75.00%")
    job["history"][2]["accuracy"] = 0.8
    rig.tell(replace(VIEW, ratings=1))
    rig.until(lambda: rig.status.get("accuracyPercent") == "80.00%")
    job["history"][2]["accuracy"] = 0.9  # rated again
    rig.tell(replace(VIEW, ratings=2))
    rig.until(lambda: rig.status.get("accuracyPercent") == "90.00%")
    assert rig.coordinator.asked[-1].endswith("after=2")


def test_a_coordinator_that_is_away_wipes_nothing_out(rig: Rig) -> None:
    rig.submit()
    rig.run(accepted=3)
    rig.tell(VIEW)
    rig.until(lambda: rig.status.get("updates") == "3/10")
    before = dict(rig.status)
    rig.coordinator.refuse["GET /v1/jobs/digits"] = (503, {"detail": "away"})
    rig.run(accepted=5)
    rig.tell(replace(VIEW, accepted=5))
    time.sleep(0.3)
    assert rig.status == before
    del rig.coordinator.refuse["GET /v1/jobs/digits"]
    rig.until(lambda: rig.status.get("updates") == "5/10")  # asked again by itself


def test_an_api_server_that_is_away_is_written_to_later_and_nothing_is_lost(rig: Rig) -> None:
    rig.cluster.fail = Unavailable("away")
    rig.writer.stepped(rig.custom, submitted=Step(False, "NameTaken", "taken", final=True))
    time.sleep(0.25)
    assert rig.cluster.events == []
    rig.cluster.fail = None
    rig.until(lambda: rig.cluster.events == [("digits", "NameTaken", True)])
    assert rig.status["phase"] == "Refused"


def test_a_successor_writes_and_tells_nothing_twice(rig: Rig) -> None:
    rig.submit()
    rig.run(accepted=3)
    rig.tell(VIEW)
    rig.until(lambda: rig.status.get("updates") == "3/10")
    rig.writer.stop()
    events, patches = list(rig.cluster.events), len(rig.cluster.patches)
    rig.writer = rig.new_writer()
    rig.tell(VIEW)
    rig.writer.seen(rig.custom)
    rig.submit()
    time.sleep(0.3)
    assert (rig.cluster.events, len(rig.cluster.patches)) == (events, patches)
    rig.run(accepted=6)
    rig.tell(replace(VIEW, accepted=6))
    rig.until(lambda: rig.status.get("updates") == "6/10")


def test_an_object_that_is_going_or_gone_is_left_alone(rig: Rig) -> None:
    rig.submit()
    rig.until(lambda: rig.status)
    custom = rig.custom
    rig.writer.leaving(custom.uid)
    patches = len(rig.cluster.patches)
    rig.writer.stepped(custom, model=NOT_YET)
    rig.writer.seen(replace(custom, generation=9))
    rig.tell(VIEW)
    time.sleep(0.2)
    assert len(rig.cluster.patches) == patches
    rig.writer.forget(custom.uid)
    rig.writer.seen(replace(custom, status={}))
    rig.until(lambda: len(rig.cluster.patches) > patches)


def test_an_object_that_vanished_is_forgotten(rig: Rig) -> None:
    rig.cluster.fail = NotFound("gone", 404, "NotFound")
    rig.writer.seen(rig.custom)
    time.sleep(0.2)
    rig.cluster.fail = None
    rig.tell(VIEW)
    time.sleep(0.2)
    assert rig.cluster.patches == []


def test_members_that_go_are_taken_away(rig: Rig) -> None:
    rig.submit()
    rig.until(lambda: rig.status)
    del rig.coordinator.jobs["digits"]
    rig.tell(VIEW)
    rig.until(lambda: "completionTime" in rig.status)
    rig.submission.submit(replace(rig.custom, status={}))
    rig.run()
    rig.tell(replace(VIEW, accepted=1))
    rig.until(lambda: "completionTime" not in rig.status)


def test_it_ends_at_once_also_when_it_never_began() -> None:
    rig = Rig()
    rig.close()
    StatusWriter(cast(RealCluster, rig.cluster), rig.submission).stop()
