"""One job's next plan, from what is seen: the policies put together.

Why: placement, hierarchy, reuse and timing each know one thing; here they meet,
the same way for every platform. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from controller.plan.estimate import residual
from controller.plan.hierarchy import shape
from controller.plan.placement import Bin, Policy, place
from controller.plan.reuse import Warm, cast
from controller.plan.timing import timing
from controller.settings import PolicySettings
from controller.view import COLLECTING, JobView, NodeView
from lifl.platform.api import Aggregator
from lifl.topology import Plan


def make_plan(
    job: JobView,
    others: Iterable[JobView],
    nodes: Sequence[NodeView],
    running: Iterable[Aggregator],
    *,
    previous: Plan | None,
    policies: PolicySettings,
) -> Plan:
    """Decide who sums the job's next updates.

    ``previous`` is the job's last known plan: its aggregators keep their level
    where they can, and a plan for the same assignment gets the next epoch.
    What ``others`` expect on a node is load there already. Updates beyond all
    capacity are spread by the capacity left, most first: they wait in the pools.
    """
    where = _place(job, others, nodes, policies)
    counts: dict[str, int] = {}
    for node in where:
        counts[node] = counts.get(node, 0) + 1
    levels = {r.name: r.level for r in previous.roles} if previous is not None else {}
    warm = [Warm(a.name, a.node, levels.get(a.name)) for a in running if a.job == job.job]
    outcome = cast(
        shape(
            counts,
            fan_in=job.fan_in,
            limits=dict.fromkeys(counts, policies.leaves),
            home=job.home,
            hierarchical=policies.hierarchy,
        ),
        warm,
        lambda k: f"{job.job}-agg-{k}",
        reuse=policies.reuse,
    )
    again = previous is not None and previous.assignment == job.assignment
    return Plan(
        job=job.job,
        assignment=job.assignment,
        epoch=previous.epoch + 1 if again and previous is not None else 1,
        timing=timing(job.timing, eager=policies.eager),
        roles=outcome.roles,
        clients=dict(zip(job.names, itertools.cycle(where), strict=False)),
    )


def _place(
    job: JobView, others: Iterable[JobView], nodes: Sequence[NodeView], policies: PolicySettings
) -> list[str]:
    """Return a node for each expected update."""
    number = len(job.selected) if job.selected is not None else job.expected
    load = _expected(others)
    bins = [
        Bin(n.name, residual(policies.capacity, load.get(n.name, 0)), in_use=n.name == job.home)
        for n in nodes
    ]
    placed = place(itertools.repeat(1.0, number), bins, policies.placement)
    chosen = [node for node in placed.nodes if node is not None]
    beyond = [Bin(node, left + number) for node, left in placed.left.items()]
    rest = place(itertools.repeat(1.0, placed.unplaced), beyond, Policy.WORST_FIT)
    return chosen + [node for node in rest.nodes if node is not None]


def _expected(jobs: Iterable[JobView]) -> dict[str, int]:
    """Return how many updates the jobs that collect expect per node."""
    found: dict[str, int] = {}
    for job in jobs:
        if job.plan is None or job.phase not in COLLECTING:
            continue
        for node in job.plan.nodes:
            goals = sum(role.goal for role in job.plan.leaves(node))
            found[node] = found.get(node, 0) + goals
    return found


def with_newcomers(job: JobView, plan: Plan) -> Plan:
    """Return the plan with a node for every client known by now; the same if none is new.

    Newcomers are dealt to the nodes in proportion to the updates expected there.
    """
    new = [c for c in job.names if c not in plan.clients]
    if not new:
        return plan
    where = [r.node for node in plan.nodes for r in plan.entry(node) for _ in range(r.goal)]
    more = {c: where[i % len(where)] for i, c in enumerate(new, start=len(plan.clients))}
    return replace(plan, epoch=plan.epoch + 1, clients={**plan.clients, **more})
