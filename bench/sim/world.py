"""The nodes, and what is counted while a round is simulated.

Why: all sides share processors, lines and the counting; how an update goes is each side's own
module. It must not decide who sums.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import simpy

from bench.sim.costs import Costs
from bench.sim.engine import Done, Shared, after
from bench.sim.planning import Tree
from bench.sim.scenario import Result, Scenario

Seconds = npt.NDArray[np.float64]


class Node:
    """A node: its processors, its line, the objects it holds."""

    def __init__(
        self, number: int, cores: Shared, line: Shared | None = None, trunk: Shared | None = None
    ) -> None:
        self.number = number
        self.cores = cores
        self.line = line
        """What comes in from clients, each no faster than it can; None: there is no network."""
        self.trunk = trunk
        """What comes in from other nodes. Partials are few beside updates: not one line's share."""
        self.held = self.most_held = 0


class World:
    """All nodes, at one moment; lasts for as many rounds as are simulated."""

    def __init__(self, scenario: Scenario, costs: Costs) -> None:
        self.scenario = scenario
        self.costs = costs
        self.env = simpy.Environment()
        self.cpu = 0.0
        """Processor seconds asked for so far by the side itself, clients left out."""
        self.held = self.most_held = 0
        one = Shared(self.env, scenario.cores) if scenario.one_machine else None
        self.nodes = [self._node(i, one) for i in range(scenario.nodes)]

    def _node(self, number: int, one: Shared | None) -> Node:
        if one is not None:
            return Node(number, one)
        env, rate = self.env, self.scenario.line
        line = Shared(env, rate, self.scenario.client_rate)
        return Node(number, Shared(env, self.scenario.cores), line, Shared(env, rate, rate))

    @property
    def home(self) -> Node:
        """Return the coordinator's node."""
        return self.nodes[0]

    def work(self, node: Node, seconds: float, done: Done, number: int = 1) -> None:
        """Have the side use a processor of ``node`` for so long, or so many for as long each."""
        self.cpu += seconds * number
        node.cores.run(seconds, done, number)

    def work_wide(self, node: Node, seconds: float, threads: int, done: Done) -> None:
        """Have it use so many processors at once."""
        self.work(node, seconds / threads, done, threads)

    def send_here(self, node: Node, done: Done, number: int = 1) -> None:
        """Have clients on ``node``'s own machine send an update each; it is not the side's."""
        node.cores.run(self.costs.client.per_byte * self.scenario.nbytes, done, number)

    def receive(self, node: Node, done: Done, *, number: int = 1, client: bool) -> None:
        """Bring updates (``client``) or a node's partial over ``node``'s line."""
        line = node.line if client else node.trunk
        assert line is not None, "there is no network on one machine"
        line.run(self.scenario.nbytes, done, number)

    def hold(self, node: Node, objects: int) -> None:
        """Note that so many more objects (fewer, if negative) are on ``node``."""
        node.held += objects
        self.held += objects
        node.most_held = max(node.most_held, node.held)
        self.most_held = max(self.most_held, self.held)


class Play(ABC):
    """One round of one side. ``whole`` fires when the model can be read."""

    def __init__(self, world: World, tree: Tree) -> None:
        self.world = world
        self.env = world.env
        self.tree = tree
        self.whole = self.env.event()
        self.began = self.env.now
        self.summed = 0
        """Updates behind the model that was made."""
        self.created = sum(seat.start for seat in tree.seats)

    @abstractmethod
    def begin(self) -> None:
        """Start what is to be started."""

    @abstractmethod
    def arrive(self, node: Node, updates: int) -> None:
        """So many clients of ``node`` begin to send, now."""

    def finish(self, covered: int) -> None:
        """The model that is made of so many updates can be read."""
        self.summed = covered
        self.whole.succeed()

    def run(self, arrivals: Seconds, rng: np.random.Generator) -> Result:
        """Play it: client *i* begins to send at ``arrivals[i]`` seconds after now."""
        world, seats = self.world, self.tree.seats
        for node in world.nodes:
            node.most_held = node.held
            node.cores.most = 0.0
        world.most_held, cpu = world.held, world.cpu
        self.begin()
        for number, times in deal(self.tree, arrivals, rng).items():
            Arrivals(self, world.nodes[number], times)
        self.env.run(self.whole)
        return Result(
            seconds=self.env.now - self.began,
            cpu=world.cpu - cpu,
            updates=self.summed,
            created=self.created,
            aggregators=len(seats),
            nodes=len({s.node for s in seats}),
            peak=world.most_held * world.scenario.nbytes,
            peak_node=max(n.most_held for n in world.nodes) * world.scenario.nbytes,
            last=float(arrivals[-1]),
            busiest=max(n.cores.most for n in world.nodes),
        )


class Arrivals:
    """One node's clients: those that begin at the same moment begin at one event."""

    __slots__ = ("_at", "_began", "_node", "_play", "_times")

    def __init__(self, play: Play, node: Node, times: Seconds) -> None:
        self._play = play
        self._node = node
        self._times = times
        self._at = 0
        self._began = play.env.now
        self._next()

    def _next(self) -> None:
        ahead = self._began + float(self._times[self._at]) - self._play.env.now
        after(self._play.env, max(0.0, ahead), self._come)

    def _come(self) -> None:
        first = self._at
        self._at = int(np.searchsorted(self._times, self._times[first], side="right"))
        self._play.arrive(self._node, self._at - first)
        if self._at < len(self._times):
            self._next()


def deal(tree: Tree, arrivals: Seconds, rng: np.random.Generator) -> dict[int, Seconds]:
    """Return the arrivals of each node, sorted; who comes when has nothing to do with where.

    Raises
    ------
    ValueError
        if the plan is not for so many clients.
    """
    counts = {n: sum(tree.seats[i].own for i in seats) for n, seats in tree.entry().items()}
    if sum(counts.values()) != len(arrivals):
        raise ValueError(f"a plan for {sum(counts.values())} clients, but {len(arrivals)} come")
    if len(counts) == 1:
        return {next(iter(counts)): arrivals}
    mixed = rng.permutation(arrivals)
    ends = np.cumsum(list(counts.values()))
    parts: Sequence[Seconds] = np.split(mixed, ends[:-1])
    return {n: np.sort(part) for n, part in zip(counts, parts, strict=True)}
