"""From a plan and the functions that are there to routes, groups and role rows.

Why: the plan names aggregators, the data plane knows endpoints, and functions
come and go while a plan is in force. A :class:`View` is one plan seen from one
node with the members it has *now*; everything else follows from it.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lifl.store import RoleRow
from lifl.topology import Plan, Role, Timing
from lifl.wire import MAX_MEMBERS, MAX_RUN, Kind, RouteType, Share

IDLE = RoleRow(assignment=0, epoch=0, goal=0, timing=0, final=False)


class Member(NamedTuple):
    """One registered function, as far as routing goes."""

    endpoint: int
    kind: Kind
    name: str
    lane: int
    ready: bool


class Route(NamedTuple):
    """Where an endpoint's descriptors lead."""

    type: RouteType
    target: int


NOWHERE = Route(RouteType.NONE, 0)


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a node's data plane and pool should say."""

    group: tuple[Share, ...]
    """The entry's members, each with a run of as many updates as it expects."""
    routes: Mapping[int, Route]
    rows: Mapping[int, RoleRow]
    """By lane; one for every aggregator."""
    cycle: int = 0
    """The assignment: with another, a gateway begins with the entry's first member."""


class View:
    """``plan`` on ``node`` with ``members``.

    ``coordinator_here`` says that the job's coordinator belongs to this node, even
    if it is being restarted at the moment.
    """

    def __init__(
        self, plan: Plan, node: str, members: Iterable[Member], *, coordinator_here: bool
    ) -> None:
        self.plan = plan
        self.roles = {r.name: r for r in plan.on(node)}
        self._coordinator_here = coordinator_here
        self._members = {m.endpoint: m for m in members}
        self._by_name = {m.name: m for m in self._members.values() if m.kind is Kind.AGGREGATOR}
        self._entry = [r.name for r in plan.entry(node)]
        self._own = plan.own()
        self._expected = plan.expected()

    # -- who is there -------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """The aggregators with a role here that are not registered."""
        return [name for name in self.roles if name not in self._by_name]

    @property
    def aggregators(self) -> list[int]:
        """Every registered aggregator, with a role or without."""
        return [m.endpoint for m in self._by_name.values()]

    @property
    def entry(self) -> list[int]:
        """Where client updates may go now: ready members only."""
        found = (self._by_name.get(name) for name in self._entry)
        return [m.endpoint for m in found if m is not None and m.ready]

    def role_of(self, endpoint: int) -> Role | None:
        """Return an aggregator's role in this plan on this node."""
        member = self._members.get(endpoint)
        return self.roles.get(member.name) if member and member.kind is Kind.AGGREGATOR else None

    def descendants(self, endpoint: int) -> Iterator[int]:
        """Yield the registered aggregators of this node whose output flows into ``endpoint``."""
        role = self.role_of(endpoint)
        waiting = [role.name] if role else []
        while waiting:
            for child in self.plan.children(waiting.pop()):
                if child.name in self.roles:
                    waiting.append(child.name)
                    if child.name in self._by_name:
                        yield self._by_name[child.name].endpoint

    # -- where things go ------------------------------------------------------------

    def _first(self, kind: Kind) -> int | None:
        return min((m.endpoint for m in self._members.values() if m.kind is kind), default=None)

    @property
    def exit(self) -> int | None:
        """Where a mean goes: the coordinator, or the gateway that brings it there."""
        return self._first(Kind.COORDINATOR if self._coordinator_here else Kind.GATEWAY)

    def _next(self, role: Role) -> int | None:
        if role.parent is None:
            return self.exit
        if role.parent in self.roles:
            parent = self._by_name.get(role.parent)
            return parent.endpoint if parent else None
        return self._first(Kind.GATEWAY)

    def _summit(self, roles: Iterable[Role]) -> int | None:
        """The first of ``roles`` that is there."""
        there = (self._by_name.get(r.name) for r in roles)
        return next((m.endpoint for m in there if m is not None), None)

    def partial_target(self, owner: int, owner_name: str | None, *, mean: bool) -> int | None:
        """Return where a partial goes; None while nobody is there to take it.

        ``owner`` sealed it and may be gone; ``owner_name`` is its name if known.
        A mean goes to the exit: no aggregator adds it again. What a gateway
        brought from another node goes to the role that has children there.
        """
        member = self._members.get(owner)
        name = member.name if member else owner_name
        if mean:
            return self.exit
        if name in self.roles and (member is None or member.kind is Kind.AGGREGATOR):
            return self._next(self.roles[name])
        outward = [r for r in self.roles.values() if r.parent not in self.roles]
        if member is not None and member.kind is Kind.GATEWAY:
            grafted = [r for r in self.roles.values() if self._has_remote_child(r)]
            return self._summit([*grafted, *outward])
        return self._summit(outward)

    def _has_remote_child(self, role: Role) -> bool:
        return any(c.name not in self.roles for c in self.plan.children(role.name))

    # -- what the data plane should say ---------------------------------------------

    def wiring(self, group: int) -> Wiring:
        """Return routes, role rows and the members of ``group``, the node's entry."""
        entry = in_turn([(e, self._goal(e)) for e in self.entry])
        routes, rows = {}, {}
        for m in self._members.values():
            if m.kind is Kind.GATEWAY:
                routes[m.endpoint] = Route(RouteType.GROUP, group) if self.roles else NOWHERE
            elif m.kind is Kind.AGGREGATOR:
                routes[m.endpoint] = self._route(m)
                rows[m.lane] = self._row(m)
            else:
                routes[m.endpoint] = NOWHERE
        return Wiring(entry, routes, rows, self.plan.assignment)

    def _goal(self, endpoint: int) -> int:
        role = self.role_of(endpoint)
        return self._own[role.name] if role else 1

    def _route(self, member: Member) -> Route:
        role = self.roles.get(member.name)
        if role is not None:
            target = self._next(role)
        else:  # idle; what it may still hold of this assignment goes to the top of the node
            target = self.partial_target(member.endpoint, member.name, mean=False)
        return NOWHERE if target is None else Route(RouteType.ENDPOINT, target)

    def _row(self, member: Member) -> RoleRow:
        role = self.roles.get(member.name)
        if role is None:
            return IDLE
        top = role.parent is None
        remote = not self._coordinator_here if top else role.parent not in self.roles
        return RoleRow(
            assignment=self.plan.assignment,
            epoch=self.plan.epoch,
            goal=self._expected[role.name],
            timing=int(self.plan.timing is Timing.LAZY),
            final=top,
            parent_remote=remote,
        )


def in_turn(goals: Sequence[tuple[int, int]]) -> tuple[Share, ...]:
    """Return a group's members so that each gets as many descriptors in a row as it expects.

    ``goals`` are endpoints and how many updates each expects. A leaf that is filled
    before the next gets anything sends its sum on while updates still arrive, so
    less is left to do after the last one; when all arrive at once, all are busy
    either way. What sums the leaves' partials comes last (``Plan.entry``), so the last update is
    added where the round ends. Those that a group cannot hold get nothing.
    """
    return tuple(Share(e, min(max(1, goal), MAX_RUN)) for e, goal in goals[:MAX_MEMBERS])


def unplanned(members: Iterable[Member]) -> Wiring:
    """Return the wiring of a domain that has no plan: nothing flows, all are idle."""
    members = list(members)
    rows = {m.lane: IDLE for m in members if m.kind is Kind.AGGREGATOR}
    return Wiring((), {m.endpoint: NOWHERE for m in members}, rows)


def reserve_for_outputs(roles: int, slots: int) -> int:
    """Return how many slots ingest leaves to ``roles`` aggregators: two outputs each, two spare."""
    return min(roles * 2 + 2, slots // 2)
