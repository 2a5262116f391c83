"""From what is seen to what is to be done.

Why: the controller may be killed at any moment and keeps no truth; each pass
looks at everything and returns the actions that bring it nearer to what the
jobs ask for. Doing an action again is harmless. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from controller.plan.timing import lasting
from controller.planning import make_plan, with_newcomers
from controller.settings import PolicySettings
from controller.view import COLLECTING, JobView, NodeView
from lifl.platform.api import Aggregator
from lifl.topology import Plan

REPLY_SECONDS = 1.0
LOST_SECONDS = 3.0
"""How long a node must be missing: a coordinator that was restarted hears of each within one."""


@dataclass(frozen=True, slots=True)
class CreateDomain:
    """Make the job's pool and security domain on a node."""

    node: str
    job: JobView


@dataclass(frozen=True, slots=True)
class Start:
    """Start an aggregator."""

    aggregator: Aggregator
    uid: int


@dataclass(frozen=True, slots=True)
class Apply:
    """Turn a plan into routes on a node."""

    node: str
    epoch: str
    plan: Plan


@dataclass(frozen=True, slots=True)
class PutPlan:
    """Tell the coordinator the plan; the round opens."""

    plan: Plan
    round: int


@dataclass(frozen=True, slots=True)
class Close:
    """No more updates come: aggregators of a node send on what they hold."""

    node: str
    epoch: str
    job: str
    assignment: int
    plan_epoch: int


@dataclass(frozen=True, slots=True)
class End:
    """An assignment is over: leftovers of it on a node are freed."""

    node: str
    job: str
    assignment: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End aggregators."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoveDomain:
    """Give a job's pool on a node back."""

    node: str
    job: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Tell the coordinator that nothing is left of a deleted job: its name is free."""

    job: str


Action = CreateDomain | Start | Apply | PutPlan | Close | End | Stop | RemoveDomain | GivenUp


@dataclass(slots=True)
class Memory:
    """What was done already: saves repeating it; losing it costs only that.

    ``applied[node, job]`` is (agent epoch, assignment, plan epoch); ``closed``
    holds the Close actions done, ``ended[node, job]`` the last assignment
    ended; ``idle_since`` is when an aggregator, or a job that is over, was first
    seen without work, in seconds; ``plans`` are the jobs' last plans and when
    they were sent, ``missing_since`` when a node of a plan was first not seen.
    """

    applied: dict[tuple[str, str], tuple[str, int, int]] = field(default_factory=dict)
    closed: set[Close] = field(default_factory=set)
    ended: dict[tuple[str, str], int] = field(default_factory=dict)
    idle_since: dict[str, float] = field(default_factory=dict)
    missing_since: dict[str, float] = field(default_factory=dict)
    over_since: dict[str, float] = field(default_factory=dict)
    plans: dict[str, tuple[Plan, float]] = field(default_factory=dict)

    def done(self, action: Action, now: float) -> None:
        """Note that an action has just succeeded; ``now`` in seconds."""
        match action:
            case Apply(node, epoch, plan):
                self.applied[node, plan.job] = (epoch, plan.assignment, plan.epoch)
            case Close():
                self.closed.add(action)
            case End(node, job, assignment):
                self.ended[node, job] = assignment
                self.closed = {c for c in self.closed if c.job != job or c.assignment > assignment}
            case PutPlan(plan):
                self.plans[plan.job] = (plan, now)
            case RemoveDomain(node, job):
                self.applied.pop((node, job), None)
                self.ended.pop((node, job), None)
            case GivenUp(job):
                self._forget(job)
            case _:
                pass

    def _forget(self, job: str) -> None:
        """Another job of that name starts from nothing."""
        for known in (self.applied, self.ended):
            for key in [k for k in known if k[1] == job]:
                del known[key]
        self.closed = {c for c in self.closed if c.job != job}
        self.plans.pop(job, None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is so at ``now`` (seconds): jobs, nodes with a living gateway, aggregators that run.

    ``leaving`` are the names of deleted jobs, ``reachable`` the nodes whose agent answers,
    ``names`` those of the aggregators.
    """

    jobs: Sequence[JobView]
    nodes: Sequence[NodeView]
    running: Sequence[Aggregator]
    now: float
    leaving: Sequence[str] = ()
    reachable: list[NodeView] = field(init=False)
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reachable", [n for n in self.nodes if n.epoch])
        object.__setattr__(self, "names", frozenset(a.name for a in self.running))


def decide(seen: Seen, memory: Memory, policies: PolicySettings) -> list[Action]:
    """Return what is to be done now, in order; an empty list when all is as it should be."""
    actions: list[Action] = []
    missing = {n for j in seen.jobs if j.plan for n in j.plan.nodes} - {n.name for n in seen.nodes}
    memory.missing_since = {n: memory.missing_since.get(n, seen.now) for n in sorted(missing)}
    for job in seen.jobs:
        if job.over:
            actions += _end(job, job.assignment, seen, memory)
        elif job.geometry is not None and seen.reachable:
            actions += _serve(job, seen, memory, policies)
    for name in seen.leaving:
        actions += _give_up(name, seen)
    return actions + list(_tidy(seen, memory, policies))


def _serve(job: JobView, seen: Seen, memory: Memory, policies: PolicySettings) -> Iterator[Action]:
    """Bring up what a job's present assignment needs."""
    for node in seen.reachable:
        if job.job not in node.domains:
            yield CreateDomain(node.name, job)
    yield from _end(job, job.assignment - 1, seen, memory)
    plan = job.plan
    gone = set(lasting(memory.missing_since, seen.now, LOST_SECONDS))
    lost = plan is not None and not gone.isdisjoint(plan.nodes)
    if (plan is None and job.phase == "planning" and job.expected) or lost:
        previous, sent = memory.plans.get(job.job, (None, 0.0))
        standing = previous if previous and previous.assignment == job.assignment else None
        if standing and seen.now < sent + REPLY_SECONDS:
            return  # what is seen may be from before that plan
        if standing and not lost and {n.name for n in seen.nodes}.issuperset(standing.nodes):
            plan = standing  # still not seen: a busy machine, or a coordinator that forgot it
        else:
            others = [j for j in seen.jobs if j.job != job.job]
            plan = make_plan(
                job, others, seen.nodes, seen.running, previous=plan or previous, policies=policies
            )
        yield from _bring_up(job, plan, seen, memory)
        yield PutPlan(plan, job.round)
    elif plan is not None and job.phase in COLLECTING:
        if job.phase == "open" and len(plan.nodes) > 1:
            known, plan = plan, with_newcomers(job, plan)
            if plan is not known:
                yield PutPlan(plan, job.round)
        yield from _bring_up(job, plan, seen, memory)
        if job.closing:
            yield from _close(job, plan, seen, memory)


def _bring_up(job: JobView, plan: Plan, seen: Seen, memory: Memory) -> Iterator[Action]:
    """Start the aggregators that a plan lacks, and apply it where it is not."""
    reachable = {n.name for n in seen.reachable}
    for role in plan.roles:
        if role.name not in seen.names and role.node in reachable:
            yield Start(Aggregator(role.name, job.job, role.node), job.uid)
    for node in seen.reachable:
        wanted = (node.epoch, plan.assignment, plan.epoch)
        if memory.applied.get((node.name, job.job)) != wanted or job.job not in node.domains:
            yield Apply(node.name, node.epoch, plan)


def _close(job: JobView, plan: Plan, seen: Seen, memory: Memory) -> Iterator[Action]:
    for node in seen.reachable:
        action = Close(node.name, node.epoch, job.job, job.assignment, plan.epoch)
        if action not in memory.closed:
            yield action


def _end(job: JobView, assignment: int, seen: Seen, memory: Memory) -> Iterator[Action]:
    """End every assignment up to ``assignment``."""
    for node in seen.reachable:
        ended = memory.ended.get((node.name, job.job), 0)
        if job.job in node.domains and ended < assignment:
            yield End(node.name, job.job, assignment)


def _give_up(job: str, seen: Seen) -> Iterator[Action]:
    """Clear away what is left of a deleted job, then say so.

    A node whose agent does not answer may hold a pool: it is waited for as long as its
    gateway lives.
    """
    names = tuple(a.name for a in seen.running if a.job == job)
    if names:
        yield Stop(names)
        return
    holders = [n.name for n in seen.reachable if job in n.domains]
    yield from (RemoveDomain(node, job) for node in holders)
    if not holders and len(seen.reachable) == len(seen.nodes):
        yield GivenUp(job)


def _tidy(seen: Seen, memory: Memory, policies: PolicySettings) -> Iterator[Action]:
    """Stop aggregators that had no role for a while, give back the pools of jobs that are over."""
    working = [j for j in seen.jobs if not j.over]
    busy = {r.name for j in working if j.plan is not None for r in j.plan.roles}
    idle = [a.name for a in seen.running if a.name not in busy and a.job not in seen.leaving]
    memory.idle_since = {name: memory.idle_since.get(name, seen.now) for name in idle}
    old = lasting(memory.idle_since, seen.now, policies.keep_seconds)
    if old:
        yield Stop(old)

    going_on = {j.job for j in working}
    kept = going_on.union(seen.leaving)
    over = {job for n in seen.reachable for job in n.domains if job not in kept}
    memory.over_since = {job: memory.over_since.get(job, seen.now) for job in sorted(over)}
    in_use = {a.job for a in seen.running}
    for job in lasting(memory.over_since, seen.now, policies.keep_seconds):
        if job not in in_use:
            yield from (RemoveDomain(n.name, job) for n in seen.reachable if job in n.domains)
