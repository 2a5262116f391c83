"""What the loop and its processes count, as Prometheus is told it."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controller.loop_metrics import DONE, LATER, REFUSED, LoopMetrics, ReplicaMetrics
from controller.view import JobView, NodeView
from lifl.topology import Level, Plan, Role, Timing

PLAN = Plan(
    job="a",
    assignment=1,
    epoch=1,
    timing=Timing.EAGER,
    roles=(
        Role("a-agg-0", "n1", Level.LEAF, 2, parent="a-agg-2"),
        Role("a-agg-1", "n2", Level.LEAF, 2, parent="a-agg-2"),
        Role("a-agg-2", "n1", Level.TOP, 2),
    ),
    clients={},
)


def job(name: str, phase: str = "open", plan: Plan | None = PLAN) -> JobView:
    found: dict[str, Any] = {"uid": 1, "round": 1, "assignment": 1, "geometry": None, "fan_in": 2}
    return JobView(
        name,
        phase=phase,
        closing=False,
        timing="eager",
        expected=4,
        selected=None,
        known=(),
        home=None,
        plan=plan,
        **found,
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_actions_are_counted_by_kind_and_outcome(registry: CollectorRegistry) -> None:
    metrics = LoopMetrics(registry)
    for outcome in (DONE, DONE, REFUSED, LATER):
        metrics.acted("PutPlan", outcome)
    metrics.ended()
    name = "lifl_controller_actions_total"
    assert value(registry, name, kind="PutPlan", outcome="done") == 2
    assert value(registry, name, kind="PutPlan", outcome="refused") == 1
    assert value(registry, name, kind="PutPlan", outcome="later") == 1
    assert value(registry, "lifl_controller_aggregators_ended_total") == 1


def test_a_look_shows_plans_and_nodes_and_forgets_those_that_went(
    registry: CollectorRegistry,
) -> None:
    metrics = LoopMetrics(registry)
    nodes = [NodeView("n1", "e", loads={"a": 3.0, "b": 0.5}, capacity=40.0), NodeView("n2", "")]
    metrics.looked(0.004, [job("a"), job("b", plan=None), job("c", "done")], nodes, 20.0)
    assert value(registry, "lifl_controller_look_seconds_count") == 1
    assert value(registry, "lifl_controller_look_seconds_sum") == 0.004
    assert value(registry, "lifl_plan_nodes", job="a") == 2
    assert value(registry, "lifl_plan_aggregators", job="a") == 3
    assert value(registry, "lifl_plan_levels", job="a") == 2
    for without in ("b", "c"):
        assert value(registry, "lifl_plan_nodes", job=without) is None
    assert value(registry, "lifl_node_agent_answers", node="n1") == 1
    assert value(registry, "lifl_node_agent_answers", node="n2") == 0
    assert value(registry, "lifl_node_load_updates", node="n1") == 3.5
    assert value(registry, "lifl_node_capacity_updates", node="n1") == 40
    assert value(registry, "lifl_node_capacity_updates", node="n2") == 20

    metrics.looked(0.004, [job("a", "stopped")], nodes[1:], 20.0)
    assert value(registry, "lifl_plan_aggregators", job="a") is None
    assert value(registry, "lifl_node_agent_answers", node="n1") is None
    assert value(registry, "lifl_node_load_updates", node="n1") is None
    assert value(registry, "lifl_node_agent_answers", node="n2") == 0


def test_a_replica_says_at_each_scrape_whether_it_leads(registry: CollectorRegistry) -> None:
    leading = [False]
    metrics = ReplicaMetrics(registry, lambda: leading[0])
    assert value(registry, "lifl_controller_leader") == 0
    leading[0] = True
    assert value(registry, "lifl_controller_leader") == 1
    expiry = "lifl_certificate_expiry_timestamp_seconds"
    assert value(registry, expiry, secret="lifl-webhook-tls") is None
    metrics.certificate("lifl-webhook-tls", 2e9)
    assert value(registry, expiry, secret="lifl-webhook-tls") == 2e9
