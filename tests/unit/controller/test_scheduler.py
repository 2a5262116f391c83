from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from controller.clients.api import Cluster
from controller.clients.errors import ApiError, Conflict, Forbidden, NotFound
from controller.cluster.assumed import SECONDS
from controller.cluster.binding import Bind, Decision, Refuse
from controller.cluster.objects import NodeObject, PodView
from controller.cluster.resources import Resources
from controller.cluster.seats import Seat
from controller.scheduler import PUT_OFF_SECONDS, Scheduler
from controller.scheduler_metrics import SchedulerMetrics
from lifl.errors import Unavailable


class FakeApi:
    """An API server that does, or fails to do, what a test says; slow caches are the test's."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.bound: list[tuple[str, str, dict[str, str]]] = []
        self.fails: list[Exception | None] = []
        self.although: bool = False
        self.find_fails: Exception | None = None
        self.said: list[tuple[str, str, str]] = []
        self.spoken = threading.Semaphore(0)

    def bind(
        self, namespace: str, pod: str, node: str, *, uid: str, annotations: dict[str, str]
    ) -> None:
        failure = self.fails.pop(0) if self.fails else None
        there = self.pods[pod]
        if there["spec"].get("nodeName") and failure is None:
            failure = Conflict(f"pod {pod} is assigned already")
        if failure is None or self.although:
            there["spec"]["nodeName"] = node
            there["metadata"]["annotations"] = dict(annotations)
            self.bound.append((pod, node, dict(annotations)))
        if failure is not None:
            raise failure

    def find(self, kind: Any, name: str, namespace: str) -> dict[str, Any] | None:
        if self.find_fails is not None:
            raise self.find_fails
        return self.pods.get(name)

    def get(self, kind: Any, name: str, namespace: str) -> dict[str, Any]:
        return self.pods[name]

    def event(self, about: Any, reason: str, message: str, **more: Any) -> None:
        self.said.append((about["name"], reason, message))
        self.spoken.release()

    def patch(self, kind: Any, name: str, body: Any, namespace: str, **more: Any) -> None:
        self.said.append((name, "condition", body["status"]["conditions"][0]["message"]))
        self.spoken.release()

    def heard(self, number: int) -> list[tuple[str, str, str]]:
        for _ in range(number):
            assert self.spoken.acquire(timeout=10)
        return self.said


class Rig:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.now = 0.0
        self.cache: list[PodView] = []
        self.nodes = [
            NodeObject(n, {}, (), False, True, Resources(2000, 2**30, 0, 10)) for n in "ab"
        ]
        self.seats: list[Seat] | None = []
        self.leading = True
        self.registry = CollectorRegistry()
        self.scheduler = Scheduler(
            cast(Cluster, self.api),
            pods=lambda: self.cache,
            nodes=lambda: self.nodes,
            seats=lambda: self.seats,
            agents=lambda: frozenset("ab"),
            namespaces=lambda: frozenset({"lifl"}),
            mint=lambda *claims: "/".join(claims),
            metrics=SchedulerMetrics(self.registry),
            leading=lambda: self.leading,
            clock=lambda: self.now,
        )

    def add(self, name: str, cpu: int = 1000, function: str = "aggregator", **more: Any) -> PodView:
        view = PodView(
            "lifl",
            name,
            f"uid-{name}",
            scheduler_name="lifl-scheduler",
            function=function,
            requests=Resources(cpu, 0, 0, 1),
        )
        self.cache.append(replace(view, **more))
        self.api.pods[name] = {
            "metadata": {
                "name": name,
                "namespace": "lifl",
                "uid": f"uid-{name}",
                "resourceVersion": "1",
            },
            "spec": {},
        }
        return self.cache[-1]

    def show(self) -> None:
        """The cache has caught up."""
        for i, view in enumerate(self.cache):
            raw = self.api.pods[view.name]
            notes = raw["metadata"].get("annotations", {})
            self.cache[i] = replace(
                view,
                node=raw["spec"].get("nodeName", ""),
                seat=notes.get("lifl.dev/name", ""),
                job=notes.get("lifl.dev/job", ""),
            )

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"lifl_scheduler_{name}", labels) or 0.0

    def where(self) -> dict[str, str]:
        return {pod: node for pod, node, _ in self.api.bound}


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.scheduler.stop()


def seats(*nodes: str) -> list[Seat]:
    return [Seat(f"digits-agg-{i}", "digits", n) for i, n in enumerate(nodes)]


def kinds(decisions: list[Decision]) -> list[type]:
    return [type(d) for d in decisions]


def test_a_seat_its_job_and_its_proof_come_with_the_binding(rig: Rig) -> None:
    rig.seats = seats("b")
    rig.add("p")
    rig.scheduler.step()
    notes = {
        "lifl.dev/job": "digits",
        "lifl.dev/name": "digits-agg-0",
        "lifl.dev/registration": "uid-p/aggregator/digits-agg-0/digits",
    }
    assert rig.api.bound == [("p", "b", notes)]
    assert rig.api.heard(1) == [("p", "Scheduled", "Successfully assigned lifl/p to b")]
    assert rig.count("bound_total", function="aggregator") == 1
    assert rig.count("binding_seconds_count") == 1
    assert rig.count("deciding_seconds_count") == 1


def test_without_a_job_there_is_nothing_to_register_for(rig: Rig) -> None:
    rig.add("p")
    rig.add("q", function="")
    rig.scheduler.step()
    assert sorted(rig.api.bound) == [
        ("p", "a", {"lifl.dev/job": "", "lifl.dev/name": "p"}),
        ("q", "a", {}),
    ]


def test_what_the_cache_does_not_show_yet_is_not_given_again(rig: Rig) -> None:
    rig.seats = seats("b")
    rig.add("p", 1500)
    rig.scheduler.step()
    rig.add("q", 1500)
    rig.scheduler.step()
    assert rig.where() == {"p": "b", "q": "a"}  # neither the seat nor the room
    assert rig.api.bound[1][2]["lifl.dev/job"] == ""


def test_what_is_assumed_ends_when_it_is_seen_or_deleted(rig: Rig) -> None:
    rig.add("p", 1500, "")
    rig.scheduler.step()
    rig.cache.clear()
    rig.add("q", 1500, "")
    rig.scheduler.step()
    assert rig.where() == {"p": "a", "q": "a"}


def test_what_is_assumed_expires_and_is_found_out_at_the_server(rig: Rig) -> None:
    rig.add("p", 1500, "")
    rig.scheduler.step()
    rig.now += SECONDS - 1
    assert rig.scheduler.step() == []
    rig.now += 2
    assert kinds(rig.scheduler.step()) == [Bind]  # refused by the server: it is on our node
    assert rig.where() == {"p": "a"}
    assert rig.scheduler.step() == []


def test_a_pod_that_is_asked_to_end_gives_its_seat_up_though_its_binding_is_not_seen(
    rig: Rig,
) -> None:
    rig.seats = seats("b")
    rig.add("p")
    rig.scheduler.step()
    rig.cache[0] = replace(rig.cache[0], deleting=True)
    rig.add("q")
    rig.scheduler.step()
    assert [notes["lifl.dev/name"] for _, _, notes in rig.api.bound] == ["digits-agg-0"] * 2


@pytest.mark.parametrize("although", [True, False])
def test_a_lost_answer_is_found_out_and_nothing_is_given_twice(rig: Rig, although: bool) -> None:
    rig.seats = seats("b")
    rig.add("p", 1500)
    rig.api.fails, rig.api.although = [Unavailable("no answer")], although
    rig.scheduler.step()
    assert rig.count("failed_total") == 1
    rig.add("q", 1500)
    rig.api.although = False
    rig.scheduler.step()
    assert rig.where() == {"p": "b", "q": "a"}
    assert rig.api.bound[0][2]["lifl.dev/name"] == "digits-agg-0"
    assert rig.scheduler.step() == []


def test_a_doubt_outlasts_the_time_that_bindings_are_believed(rig: Rig) -> None:
    rig.seats = seats("b")
    rig.add("p", 1500)
    rig.api.fails = [Unavailable("away")] * 3
    rig.scheduler.step()
    for _ in range(2):
        rig.now += SECONDS + 1
        rig.add(f"q{rig.now}", 3000)
        assert kinds(rig.scheduler.step())[-1] is Refuse
    rig.scheduler.step()
    assert rig.where() == {"p": "b"}


def test_a_doubt_that_the_cache_resolves_is_not_tried_again(rig: Rig) -> None:
    rig.add("p", function="")
    rig.api.fails, rig.api.although = [Unavailable("no answer")], True
    rig.scheduler.step()
    rig.show()
    rig.api.fails = [AssertionError("it was bound again")]
    assert rig.scheduler.step() == []


def test_a_pod_that_somebody_else_bound_is_left_there(rig: Rig) -> None:
    rig.seats = seats("b")
    rig.add("p", 1500)
    rig.api.pods["p"]["spec"]["nodeName"] = "a"
    rig.scheduler.step()
    assert rig.api.bound == []
    assert rig.count("bound_total", function="aggregator") == 0
    rig.add("q", 1500)
    rig.scheduler.step()  # p takes the room that the server says, and no seat
    assert rig.where() == {"q": "b"}


def test_a_pod_that_was_replaced_by_one_of_its_name_is_forgotten(rig: Rig) -> None:
    rig.add("p", function="")
    rig.api.pods["p"]["metadata"]["uid"] = "another"
    rig.api.fails = [Conflict("the uid differs")]
    rig.scheduler.step()
    assert rig.api.bound == []
    assert rig.count("failed_total") == 0


def test_a_pod_that_is_gone_is_forgotten(rig: Rig) -> None:
    rig.add("p", 1500, "")
    rig.api.fails = [NotFound("gone", 404)]
    rig.scheduler.step()
    rig.cache.clear()
    rig.add("q", 1500, "")
    rig.scheduler.step()
    assert rig.where() == {"q": "a"}


@pytest.mark.parametrize(
    "failure", [Forbidden("not yours", 403), ApiError("bad", 422), Conflict("it is being deleted")]
)
def test_a_binding_that_is_refused_is_told_and_not_tried_at_once_again(
    rig: Rig, failure: Exception
) -> None:
    rig.add("p", function="")
    rig.api.fails = [failure]
    rig.scheduler.step()
    said = rig.api.heard(2)
    assert [reason for _, reason, _ in said] == ["FailedScheduling", "condition"]
    assert str(failure) in said[0][2]
    assert rig.scheduler.step() == []
    rig.now += PUT_OFF_SECONDS
    rig.scheduler.step()
    assert rig.where() == {"p": "a"}


def test_what_is_in_doubt_when_the_pod_cannot_be_read_stays_in_doubt(rig: Rig) -> None:
    rig.seats = seats("b")
    rig.add("p", 1500)
    rig.api.fails, rig.api.find_fails = [Conflict("it changed")], Unavailable("away")
    rig.scheduler.step()
    rig.add("q", 1500)
    rig.scheduler.step()
    assert {p: n["lifl.dev/name"] for p, _, n in rig.api.bound} == {"p": "digits-agg-0", "q": "q"}


def test_a_reason_is_told_once_until_it_changes(rig: Rig) -> None:
    rig.add("p", 5000, "")
    for _ in range(3):
        rig.scheduler.step()
    words = "0/2 nodes are available: 2 Insufficient cpu."
    assert rig.api.heard(2) == [("p", "FailedScheduling", words), ("p", "condition", words)]
    rig.nodes.pop()
    rig.scheduler.step()
    fewer = "0/1 nodes are available: 1 Insufficient cpu."
    assert rig.api.heard(2)[2:] == [("p", "FailedScheduling", fewer), ("p", "condition", fewer)]
    assert rig.count("refused_total", function="other") == 2


def test_a_pod_that_was_bound_meanwhile_gets_no_condition(rig: Rig) -> None:
    rig.add("p", 5000, "")
    rig.api.pods["p"]["spec"]["nodeName"] = "z"
    rig.add("q", 5000, "")
    rig.scheduler.step()
    said = rig.api.heard(3)
    assert [(name, reason) for name, reason, _ in said] == [
        ("p", "FailedScheduling"),
        ("q", "FailedScheduling"),
        ("q", "condition"),
    ]


def test_who_does_not_lead_binds_nothing(rig: Rig) -> None:
    rig.add("p", function="")
    rig.leading = False
    assert kinds(rig.scheduler.step()) == [Bind]
    assert rig.api.bound == []
    rig.leading = True
    rig.scheduler.step()
    assert rig.where() == {"p": "a"}


def test_many_are_bound_at_once(rig: Rig) -> None:
    together = threading.Barrier(4)
    bind: Callable[..., None] = rig.api.bind

    def slow(*args: Any, **more: Any) -> None:
        together.wait(timeout=10)
        bind(*args, **more)

    rig.api.bind = slow  # type: ignore[method-assign]
    for i in range(8):
        rig.add(f"p{i}", 100, "")
    rig.scheduler.step()
    assert len(rig.where()) == 8


def test_words_that_cannot_be_written_do_not_matter(rig: Rig) -> None:
    def broken(*args: Any, **more: Any) -> None:
        rig.api.spoken.release()
        raise Unavailable("away")

    rig.api.event = broken  # type: ignore[method-assign]
    rig.add("p", function="")
    rig.add("q", function="")
    rig.scheduler.step()
    rig.api.heard(2)
    assert len(rig.where()) == 2


@pytest.mark.usefixtures("no_leaks")
def test_it_runs_until_it_is_stopped_and_leaves_no_thread() -> None:
    rig = Rig()
    rig.scheduler.start()
    try:
        for i in range(3):
            rig.add(f"p{i}", 100, "")
            rig.scheduler.wake()
            rig.api.heard(1)
        assert len(rig.where()) == 3
    finally:
        rig.scheduler.stop()


@pytest.mark.usefixtures("no_leaks")
def test_an_error_does_not_end_it() -> None:
    rig = Rig()
    errors = [ValueError("broken"), Unavailable("away")]
    asked = threading.Semaphore(0)

    def pods() -> list[PodView]:
        asked.release()
        if errors:
            raise errors.pop()
        return rig.cache

    rig.scheduler._pods = pods
    rig.scheduler.start()
    try:
        while errors:
            rig.scheduler.wake()
            assert asked.acquire(timeout=10)
        rig.add("p", function="")
        rig.scheduler.wake()
        rig.api.heard(1)
    finally:
        rig.scheduler.stop()


@pytest.mark.usefixtures("no_leaks")
def test_one_that_was_never_started_can_be_stopped() -> None:
    Rig().scheduler.stop()
