"""Who sums what in a round: for LIFL what the controller plans, for the others what they have.

Why: the simulator is worth something only if it is the platform's own code that decides. LIFL's
plan is ``controller.planning.make_plan``'s, what is stopped when follows
``controller.plan.timing``. One job has all nodes, and no load is measured: a job's own rounds are
none beside its next, and updates come no faster than one aggregator of a node adds. The other
sides spread their updates as a stock scheduler does (``placement``'s WorstFit) and get the tree of
``hierarchy.shape``. It must not know costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.sim.scenario import Scenario
from controller.plan.hierarchy import Place, shape
from controller.plan.placement import Bin, Policy, place
from controller.plan.timing import lasting
from controller.planning import MANY, make_plan
from controller.view import JobView, NodeView
from lifl.platform.api import Aggregator
from lifl.topology import Plan, Timing

JOB = "sim"


@dataclass(frozen=True, slots=True)
class Seat:
    """An aggregator of a round: ``covers`` updates are in its sum, ``own`` it takes itself.

    ``node`` and ``parent`` are numbers, the latter of a seat, None for the top. ``start``: it
    does not run yet.
    """

    node: int
    covers: int
    own: int
    parent: int | None
    start: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """A round's seats, and whether they add at once."""

    seats: tuple[Seat, ...]
    eager: bool = True

    def entry(self) -> dict[int, list[int]]:
        """Return the seats that take clients' updates, by node, in the order of their filling."""
        parents = {s.parent for s in self.seats}
        takers = (i for i, s in enumerate(self.seats) if s.own)
        found: dict[int, list[int]] = {}
        for i in sorted(takers, key=lambda i: i in parents):
            found.setdefault(self.seats[i].node, []).append(i)
        return found


class Nodes:
    """The nodes' names, which sort as their numbers do."""

    def __init__(self, number: int) -> None:
        width = len(str(number - 1))
        self.names = [f"node-{i:0{width}}" for i in range(number)]
        self.number = {name: i for i, name in enumerate(self.names)}


class Controlled:
    """LIFL: planned by the controller, with the aggregators that are warm."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._nodes = Nodes(scenario.nodes)
        self._running: dict[str, Aggregator] = {}
        self._idle_since: dict[str, float] = {}
        self._assignment = 0
        self.plan: Plan | None = None
        """The last that was made."""

    def idle(self, now: float) -> None:
        """The round is over: nobody has a role."""
        for name in self._running:
            self._idle_since.setdefault(name, now)

    def tree(self, updates: int, now: float) -> Tree:
        """Plan a round of so many updates; what runs afterwards is what has a role, or is kept."""
        policies = self._scenario.policies
        for name in lasting(self._idle_since, now, policies.keep_seconds):
            self._running.pop(name, None)
            del self._idle_since[name]
        self._assignment += 1
        plan = make_plan(
            self._job(updates),
            [],
            self._views(),
            list(self._running.values()),
            previous=self.plan,
            policies=policies,
        )
        self.plan = plan
        seats = self._seats(plan)
        for role in plan.roles:
            self._running[role.name] = Aggregator(role.name, JOB, role.node)
            self._idle_since.pop(role.name, None)
        for name in self._running.keys() - {r.name for r in plan.roles}:
            self._idle_since.setdefault(name, now)
        return Tree(seats, plan.timing is Timing.EAGER)

    def _seats(self, plan: Plan) -> tuple[Seat, ...]:
        covers, own = plan.expected(), plan.own()
        index = {role.name: i for i, role in enumerate(plan.roles)}
        return tuple(
            Seat(
                self._nodes.number[role.node],
                covers[role.name],
                own[role.name],
                None if role.parent is None else index[role.parent],
                role.name not in self._running,
            )
            for role in plan.roles
        )

    def _job(self, updates: int) -> JobView:
        return JobView(
            job=JOB,
            uid=0,
            round=self._assignment,
            assignment=self._assignment,
            phase="planning",
            closing=False,
            geometry={},
            fan_in=self._scenario.fan_in,
            timing=Timing.EAGER.value,
            expected=updates,
            selected=None,
            known=(),
            home=self._nodes.names[0],
            plan=None,
        )

    def _views(self) -> list[NodeView]:
        processors = self._scenario.processors
        return [
            NodeView(name, "1", frozenset({JOB}), processors=processors)
            for name in self._nodes.names
        ]


class Stock:
    """Vanilla: a sum for each ``fan_in`` updates of a node, all of which go to one top.

    Seats are sums here, not processes: how many functions run is the autoscaler's to say
    (``bench.sim.vanilla``).
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._nodes = Nodes(scenario.nodes)

    def idle(self, now: float) -> None:
        """The autoscaler sees by itself."""

    def tree(self, updates: int, now: float) -> Tree:
        """Return the sums of a round."""
        limits = dict.fromkeys(self._nodes.names, max(MANY, updates))
        middles = self._scenario.middles
        places = spread(self._scenario, self._nodes, updates, limits, middles=middles)
        return Tree(_seats(places, self._nodes))


class Static:
    """Always on: a tree over all nodes that is there before a round and after it."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._nodes = Nodes(scenario.nodes)

    def idle(self, now: float) -> None:
        """Nothing is ever stopped."""

    def tree(self, updates: int, now: float) -> Tree:
        """Return the tree for a round of so many updates."""
        leaves = self._scenario.leaves or self._scenario.processors
        limits = dict.fromkeys(self._nodes.names, leaves)
        places = spread(self._scenario, self._nodes, updates, limits)
        return Tree(_seats(places, self._nodes))


Planner = Controlled | Stock | Static


def planner(scenario: Scenario) -> Planner:
    """Return who plans for a side."""
    kinds: dict[str, type[Controlled] | type[Stock] | type[Static]] = {
        "lifl": Controlled,
        "vanilla": Stock,
        "serverful": Static,
    }
    return kinds[scenario.system](scenario)


def spread(
    scenario: Scenario,
    nodes: Nodes,
    updates: int,
    limits: Mapping[str, int],
    *,
    middles: bool = True,
) -> tuple[Place, ...]:
    """Return the tree of updates that are spread evenly."""
    bins = [Bin(name, float(updates)) for name in nodes.names]
    counts = place(itertools.repeat(1.0, updates), bins, Policy.WORST_FIT).counts
    return shape(
        counts,
        fan_in=scenario.share,
        limits=limits,
        home=nodes.names[0],
        hierarchical=middles,
        promote=False,
    )


def _seats(places: Sequence[Place], nodes: Nodes) -> tuple[Seat, ...]:
    children = {p.parent for p in places}
    own = [0 if i in children else p.goal for i, p in enumerate(places)]
    covers = list(own)
    for i in range(len(places) - 1, 0, -1):  # parents come first
        covers[places[i].parent or 0] += covers[i]
    return tuple(
        Seat(nodes.number[p.node], covers[i], own[i], p.parent, start=False)
        for i, p in enumerate(places)
    )


def without_starts(tree: Tree) -> Tree:
    """Return a tree of which everything runs already."""
    return replace(tree, seats=tuple(replace(s, start=False) for s in tree.seats))
