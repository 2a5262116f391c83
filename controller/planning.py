"""One job's next plan, from what is seen: the policies put together.

Why: placement, hierarchy, reuse and timing each know one thing; here they meet,
the same way for every platform. Pure.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from controller.plan.estimate import residual
from controller.plan.hierarchy import leaves_that_keep_up, shape
from controller.plan.placement import Bin, Policy, place
from controller.plan.reuse import Warm, cast
from controller.plan.timing import timing
from controller.settings import PolicySettings
from controller.view import COLLECTING, JobView, NodeView
from lifl.platform.api import Aggregator
from lifl.topology import FAN_IN, Plan, Timing

LEAVES_PER_PROCESSOR = 2
MANY = 1024
"""Leaves of a node where nothing bounds them but the updates."""


def make_plan(
    job: JobView,
    others: Collection[JobView],
    nodes: Sequence[NodeView],
    running: Sequence[Aggregator],
    *,
    previous: Plan | None,
    policies: PolicySettings,
) -> Plan:
    """Decide who sums the job's next updates.

    ``previous`` is the job's last known plan: its aggregators keep their level
    where they can. If it is for the same assignment this one gets the next
    epoch, keeps what is expected on the nodes that are still there (updates lie
    on them already) and places only the rest. Nodes where the job's aggregators are warm come
    first, else the coordinator's: to start a tree anew costs more than one sum that crosses
    the network. What ``others`` are to a node is load there already; the job's own updates
    count once, as what is placed, not also as what was measured of its past rounds. Updates
    beyond all capacity are spread by the capacity left, most first: they wait in the pools. A node
    with no room for an aggregator gets none, if another has.
    """
    again = previous if previous and previous.assignment == job.assignment else None
    kept = _expected_by([again] if again else [])
    counts = Counter({n.name: kept[n.name] for n in nodes if kept[n.name]})
    number = len(job.selected) if job.selected is not None else job.expected
    taken = _taken(job.job, others, nodes, measured=policies.estimate)
    able = _with_room(nodes)
    warm = [a for a in running if a.job == job.job]
    places: set[str | None] = {a.node for a in warm if policies.reuse}
    used = places & {n.name for n in able} or {job.home}
    bins = [
        Bin(
            n.name,
            residual(
                policies.capacity if n.capacity is None else n.capacity,
                taken[n.name] + counts[n.name],
            ),
            in_use=n.name in counts or n.name in used,
        )
        for n in able
    ]
    where = _place(number - counts.total(), bins, policies.placement)
    counts.update(where)
    levels = {r.name: r.level for r in previous.roles} if previous is not None else {}
    outcome = cast(
        shape(
            counts,
            fan_in=job.fan_in or FAN_IN,
            limits=_limits(job, nodes, running, policies),
            home=job.home,
            hierarchical=policies.hierarchy,
            promote=policies.reuse,
        ),
        [Warm(a.name, a.node, levels.get(a.name)) for a in warm],
        lambda k: f"{job.job}-agg-{k}",
        reuse=policies.reuse,
    )
    stay = {c: n for c, n in again.clients.items() if n in kept and n in counts} if again else {}
    move = [c for c in job.names if c not in stay]
    return Plan(
        job=job.job,
        assignment=job.assignment,
        epoch=again.epoch + 1 if again else 1,
        timing=timing(job.timing, eager=policies.eager),
        roles=outcome.roles,
        clients=stay | dict(zip(move, itertools.cycle(where or sorted(counts)), strict=False)),
    )


def _with_room(nodes: Iterable[NodeView]) -> list[NodeView]:
    """Return the nodes whose agent answers, of those the ones that take aggregators if any do."""
    reachable = [n for n in nodes if n.epoch]
    return [n for n in reachable if n.room != 0] or reachable


def _limits(
    job: JobView, nodes: Iterable[NodeView], running: Iterable[Aggregator], policies: PolicySettings
) -> dict[str, int]:
    """Return the most leaves of each node, beside other jobs' aggregators and what is above.

    That is a top, and a middle unless the last leaf is. Two leaves for each processor are
    enough, one adds while the other hands its sum on, and more only cost; without the hierarchy
    nobody looks at processors. One aggregator a node must have.

    A job that names no fan-in gets as many as keep up with its updates, one where nothing was
    measured yet: they come through one gateway, which is slower than one that adds. That is
    for sums that are made as updates come; what is added when all are there is added side by side.
    """
    others = Counter(a.node for a in running if a.job != job.job)
    eager = timing(job.timing, eager=policies.eager) is Timing.EAGER
    as_needed = job.fan_in is None and eager and policies.hierarchy and policies.estimate
    above = 1 if policies.reuse and policies.hierarchy else 2
    limits = {}
    for n in nodes:
        room = MANY if n.room is None else n.room - others[n.name] - above
        most = MANY
        if policies.hierarchy:
            most = policies.leaves or int(LEAVES_PER_PROCESSOR * n.processors)
        if as_needed:
            most = min(most, leaves_that_keep_up(n.work.get(job.job, 0.0)))
        limits[n.name] = max(1, min(most, room))
    return limits


def _taken(
    job: str, others: Iterable[JobView], nodes: Iterable[NodeView], *, measured: bool
) -> dict[str, int]:
    """Return what other jobs than ``job`` take of each node, in updates.

    That is what each expects there, or what was ``measured`` of it, if that is more; a job that
    is over brings nothing more. Whole updates: what fades of an average opens no node.
    """
    expected = {j.job: _expected_by([j.plan]) for j in others if j.plan and j.phase in COLLECTING}
    silent = {job} | {j.job for j in others if j.over}
    nothing: Counter[str] = Counter()
    total = sum(expected.values(), nothing)
    found = {}
    for n in nodes:
        loads = n.loads.items() if measured else ()
        beyond = (
            max(0.0, load - expected.get(other, nothing)[n.name])
            for other, load in loads
            if other not in silent
        )
        found[n.name] = total[n.name] + round(sum(beyond))
    return found


def _place(number: int, bins: Sequence[Bin], policy: Policy) -> list[str]:
    """Return a node for each of ``number`` expected updates."""
    placed = place(itertools.repeat(1.0, number), bins, policy)
    chosen = [node for node in placed.nodes if node is not None]
    beyond = [Bin(node, left + number) for node, left in placed.left.items()]
    rest = place(itertools.repeat(1.0, placed.unplaced), beyond, Policy.WORST_FIT)
    return chosen + [node for node in rest.nodes if node is not None]


def _expected_by(plans: Iterable[Plan]) -> Counter[str]:
    """Return how many updates are expected per node."""
    found: Counter[str] = Counter()
    for plan in plans:
        for name, own in plan.own().items():
            found[plan.role(name).node] += own
    return found


def with_newcomers(job: JobView, plan: Plan) -> Plan:
    """Return the plan with a node for every client known by now; the same if none is new.

    Newcomers are dealt to the nodes in proportion to the updates expected there.
    """
    new = [c for c in job.names if c not in plan.clients]
    if not new:
        return plan
    own = plan.own()
    where = [r.node for node in plan.nodes for r in plan.on(node) for _ in range(own[r.name])]
    more = {c: where[i % len(where)] for i, c in enumerate(new, start=len(plan.clients))}
    return replace(plan, epoch=plan.epoch + 1, clients={**plan.clients, **more})
