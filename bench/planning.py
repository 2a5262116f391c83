"""What deciding costs: packing updates on nodes, one node's plan, and a plan made routes.

The packing is of equal updates, as in a round of one job, and of mixed sizes beside it.
``plan_ms`` is the controller's own code for one node: load smoothed, updates placed, tree
shaped, aggregators cast. ``routes_ms`` is a real platform of three nodes: a plan in
which every aggregator takes another's role goes to all agents, one after the other, until
the last has its data plane and its role rows say so.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from bench import driver, harness
from bench.figures import Figure, at_most
from controller.plan.estimate import load, smooth
from controller.plan.placement import Bin, Policy, place
from controller.planning import make_plan
from controller.settings import PolicySettings
from controller.view import JobView, NodeView
from lifl.platform.api import Aggregator
from lifl.topology import Plan

N = 9
PLANS = 2000
NODES = 3
CLIENTS = 48
MODEL_BYTES = 1 << 20
PATIENCE = 30.0
REST_SECONDS = 0.3  # plans do not come one on the other's heels; not timed


def run() -> list[Figure]:
    """Return ``bestfit_ms_10k``, ``bestfit_ms_1m``, ``plan_ms`` and ``routes_ms``."""
    return [
        _bestfit("10k", 10_000, 100, 5),
        _bestfit("1m", 1_000_000, 10_000, 1000),
        _plan(),
        _routes(),
    ]


def _bestfit(label: str, updates: int, nodes: int, limit: float) -> Figure:
    room = updates // nodes + 1
    bins = [Bin(f"node-{i}", float(room), in_use=i % 2 == 0) for i in range(nodes)]
    rng = random.Random(1)
    mixed = [rng.choice((0.5, 1.0, 1.5)) for _ in range(updates)]
    equal_ms = [_pack(itertools.repeat(1.0, updates), bins) for _ in range(N)]
    mixed_ms = sorted(_pack(mixed, bins) for _ in range(3))
    notes = {"updates": updates, "nodes": nodes, "mixed_sizes_ms": round(mixed_ms[1], 1)}
    return Figure(f"bestfit_ms_{label}", "ms", equal_ms, at_most(limit), notes)


def _pack(sizes: Iterable[float], bins: list[Bin]) -> float:
    start = time.perf_counter()
    placed = place(sizes, bins, Policy.BEST_FIT)
    took = time.perf_counter() - start
    if placed.unplaced:
        raise RuntimeError(f"{placed.unplaced} updates found no room")
    return took * 1e3


def _plan() -> Figure:
    policies = PolicySettings()
    number = int(policies.capacity)
    job = JobView(
        job="plan",
        uid=0,
        round=1,
        assignment=1,
        phase="planning",
        closing=False,
        geometry={},
        fan_in=2,
        timing="eager",
        expected=number,
        selected=tuple(f"c{i}" for i in range(number)),
        known=(),
        home="node-0",
        plan=None,
    )
    nodes = [NodeView("node-0", "1", frozenset({"plan"}))]
    running: list[Aggregator] = []
    first = make_plan(job, [], nodes, running, previous=None, policies=policies)
    running = [Aggregator(role.name, job.job, role.node) for role in first.roles]
    smoothed = 0.0

    def once() -> None:
        nonlocal smoothed
        smoothed = smooth(smoothed, load(100.0, 0.01))
        make_plan(job, [], nodes, running, previous=first, policies=policies)

    samples = [_mean_ms(once, PLANS // N) for _ in range(N)]
    return Figure("plan_ms", "ms", samples, at_most(0.2), {"roles": len(first.roles)})


def _mean_ms(call: Callable[[], None], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) * 1e3 / times


def _routes() -> Figure:
    document = harness.model_document(MODEL_BYTES)
    with harness.platform(nodes=NODES) as platform:
        platform.await_nodes(NODES)
        job, plan = _spread(platform, document)
        admins = [platform.admin(node) for node in plan.nodes]
        for node, admin in zip(plan.nodes, admins, strict=True):
            _await_functions(plan, node, admin)
        samples = []
        for _ in range(N + 2):
            time.sleep(REST_SECONDS)
            plan = _rotated(plan)
            start = time.monotonic()
            missing = [name for admin in admins for name in admin.apply(plan)]
            samples.append((time.monotonic() - start) * 1e3)
            if missing:
                raise RuntimeError(f"not registered: {', '.join(missing)}")
        job.stop()
    notes = {"nodes": NODES, "aggregators": len(plan.roles), "tree_levels": plan.levels}
    return Figure("routes_ms", "ms", samples[2:], at_most(20), notes)


def _spread(platform: harness.Platform, document: bytes) -> tuple[driver.Job, Plan]:
    """Return a job on all nodes and its plan.

    The controller leaves an agent out that is not up yet. It has met all of them when
    an earlier job has its pool everywhere.
    """
    scout = driver.Job(platform, "scout", document, clients=1, slots=8)
    for i in range(NODES):
        _until(lambda n=i: _has_pool(platform, n, scout.name), f"node {i} to be met")
    scout.stop()
    job = driver.Job(platform, "routes", document, clients=CLIENTS, fan_in=4, slots=80)
    job.ready()
    plan = Plan.from_json(job.view()["plan"])
    if len(plan.nodes) != NODES:
        raise RuntimeError(f"the plan is on {len(plan.nodes)} nodes, not {NODES}")
    return job, plan


def _has_pool(platform: harness.Platform, node: int, job: str) -> bool:
    return any(d["name"] == job for d in platform.admin(f"node-{node}").domains())


def _await_functions(plan: Plan, node: str, admin: harness.AgentAdmin) -> None:
    names = {role.name for role in plan.on(node)}
    _until(
        lambda: names <= {e["name"] for e in admin.endpoints() if e["ready"]},
        f"the aggregators of {node} to register",
    )


def _until(ask: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ask():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.02)


def _rotated(plan: Plan) -> Plan:
    """Return the next epoch of a plan: on each node every aggregator takes another's role."""
    new: dict[str, str] = {}
    for node in plan.nodes:
        names = [role.name for role in plan.on(node)]
        new |= dict(zip(names, [*names[1:], names[0]], strict=True))
    roles = tuple(
        replace(r, name=new[r.name], parent=None if r.parent is None else new[r.parent])
        for r in plan.roles
    )
    return replace(plan, epoch=plan.epoch + 1, roles=roles)
