from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import pytest

from controller.agents import Agents
from controller.coordinator import Coordinator, World, world_from_json
from controller.loop import Loop
from controller.reconcile import Apply, CreateDomain, PutPlan, Start
from controller.settings import PolicySettings
from controller.view import JobView, NodeView
from lifl.client.http import HttpError
from lifl.errors import Unavailable
from lifl.platform.api import Aggregator
from lifl.topology import Plan

RAW: dict[str, Any] = {
    "job": "j",
    "domain_uid": 61000,
    "round": 1,
    "assignment": 1,
    "phase": "planning",
    "geometry": {"slots": 8, "float_bytes": 4096, "meta_bytes": 4096},
    "fan_in": 2,
    "timing": "eager",
    "expected": 4,
    "selected": ["c1", "c2", "c3", "c4"],
    "model": None,
    "plan": None,
}


class FakeCoordinator:
    def __init__(self) -> None:
        self.now = world_from_json({"rev": 1, "jobs": [RAW], "nodes": [{"node": "node-0"}]})
        self.plans: list[Plan] = []
        self.error: Exception | None = None

    def world(self) -> World:
        return self.now

    def put_plan(self, plan: Plan, round_: int) -> None:
        if self.error is not None:
            raise self.error
        self.plans.append(plan)


class FakeAgents:
    def __init__(self) -> None:
        self.domains: set[str] = set()
        self.calls: list[tuple[Any, ...]] = []
        self.away = False

    def look(self, nodes: Iterable[str]) -> list[NodeView]:
        return [NodeView(n, "e", frozenset(self.domains)) for n in nodes]

    def admin(self, node: str) -> FakeAgents:
        if self.away:
            raise Unavailable("away")
        return self

    def create_domain(self, name: str, uid: int, geometry: Any, prefault: int) -> None:
        self.domains.add(name)
        self.calls.append(("create", name, uid, geometry.slots, prefault))

    def apply(self, plan: Plan) -> None:
        self.calls.append(("apply", plan.epoch))


class FakePlatform:
    def __init__(self) -> None:
        self.alive: dict[str, Aggregator] = {}
        self.started: list[str] = []

    def user(self, job_uid: int | None) -> int:
        return job_uid or 0

    def start(self, aggregator: Aggregator, uid: int) -> None:
        self.alive[aggregator.name] = aggregator
        self.started.append(aggregator.name)

    def stop(self, names: Sequence[str]) -> None:
        for name in names:
            self.alive.pop(name, None)

    def running(self) -> list[Aggregator]:
        return list(self.alive.values())

    def wait(self, wakeup: int, timeout: float) -> None:
        raise AssertionError("a step does not wait")


class Rig:
    def __init__(self) -> None:
        self.coordinator = FakeCoordinator()
        self.agents = FakeAgents()
        self.platform = FakePlatform()
        self.now = 0.0
        self.loop = Loop(
            cast(Coordinator, self.coordinator),
            cast(Agents, self.agents),
            self.platform,
            PolicySettings(leaves=8),
            clock=lambda: self.now,
        )

    def open(self) -> None:
        """The coordinator has taken the last plan."""
        raw = RAW | {"phase": "open", "plan": self.coordinator.plans[-1].to_json()}
        self.coordinator.now = world_from_json(
            {"rev": self.coordinator.now.revision + 1, "jobs": [raw], "nodes": ["node-0"]}
        )


@pytest.fixture
def rig() -> Rig:
    return Rig()


def kinds(actions: Iterable[object]) -> list[type]:
    return [type(a) for a in actions]


def test_a_job_is_brought_up_in_one_step_and_then_left_alone(rig: Rig) -> None:
    assert kinds(rig.loop.step()) == [CreateDomain, Start, Start, Apply, PutPlan]
    assert rig.agents.calls == [("create", "j", 61000, 8, 2), ("apply", 1)]
    assert rig.loop.step() == []
    rig.open()
    assert rig.loop.step() == []


@pytest.mark.parametrize("error", [Unavailable("away"), HttpError(409, {"code": "stale-plan"})])
def test_what_failed_is_done_at_the_next_look(rig: Rig, error: Exception) -> None:
    rig.coordinator.error = error
    assert PutPlan not in kinds(rig.loop.step())
    rig.coordinator.error = None
    assert PutPlan in kinds(rig.loop.step())


def test_an_agent_that_is_away_holds_up_only_its_own(rig: Rig) -> None:
    rig.agents.domains.add("j")
    rig.agents.away = True
    assert kinds(rig.loop.step()) == [Start, Start, PutPlan]
    rig.agents.away = False
    rig.open()
    assert kinds(rig.loop.step()) == [Apply]


def test_an_aggregator_that_keeps_dying_is_started_ever_later(rig: Rig) -> None:
    rig.loop.step()
    rig.open()
    rig.loop.step()

    def die_and_count(seconds: float, condition: Callable[[], bool]) -> float:
        rig.platform.alive.pop("j-agg-0")
        waited = 0.0
        rig.loop.step()
        while not condition():
            rig.now += seconds
            waited += seconds
            rig.loop.step()
        return waited

    waits = [die_and_count(0.01, lambda: "j-agg-0" in rig.platform.alive) for _ in range(4)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.02)


def test_nothing_is_done_before_the_coordinator_was_heard(rig: Rig) -> None:
    rig.coordinator.now = None  # type: ignore[assignment]
    assert rig.loop.step() == []


def test_the_watch_answer_is_read() -> None:
    nodes = [{"node": "b", "url": "", "public": "http://b"}, "a", {"node": "c", "public": ""}]
    world = world_from_json({"rev": 7, "jobs": [RAW], "nodes": nodes})
    assert (world.revision, world.nodes) == (7, ("a", "b", "c"))
    assert world.public == {"b": "http://b"}
    assert world.jobs == (JobView.from_json(RAW),)
