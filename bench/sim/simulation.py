"""Simulates rounds of one side, one after the other."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence

import numpy as np
import simpy

from bench.sim.alwayson import AlwaysOn
from bench.sim.byref import ByReference
from bench.sim.costs import Costs
from bench.sim.planning import Planner, Tree, planner, without_starts
from bench.sim.scenario import Result, Scenario
from bench.sim.vanilla import Service, Vanilla
from bench.sim.world import Play, Seconds, World

MANY = 100_000
QUIET = 1e-3
"""A load, in updates, below which a node is sampled again only when something happens there."""


def simulate(
    scenario: Scenario,
    costs: Costs,
    rounds: Sequence[Seconds],
    *,
    pause: float = 0.0,
    warm: bool = False,
    lead: float = 0.0,
) -> list[Result]:
    """Return what each round takes: client *i* of it begins to send at ``rounds[r][i]`` seconds.

    Arrivals are sorted. A round begins ``pause`` seconds after the one before can be read.
    ``warm``: all aggregators of the first round run already. ``lead`` seconds pass before it.

    Raises
    ------
    ValueError
        if a round has no clients.
    """
    world = World(scenario, costs)
    plans = planner(scenario)
    rng = np.random.default_rng(scenario.seed)
    services: dict[int, Service] = {}
    sampler = Sampler(world, plans) if len(rounds) > 1 else None
    if lead:
        world.env.run(lead)
    results: list[Result] = []
    for number, arrivals in enumerate(rounds):
        if not len(arrivals):
            raise ValueError(f"round {number + 1} has no clients")
        tree = plans.tree(len(arrivals), world.env.now)
        if warm and number == 0:
            tree = without_starts(tree)
        result = _play(world, tree, services).run(arrivals, rng)
        if result.updates != len(arrivals):
            raise RuntimeError(f"{result.updates} of {len(arrivals)} updates are in the model")
        plans.idle(world.env.now)
        results.append(result)
        if len(arrivals) >= MANY:
            gc.collect()  # a round's parts know one another
        if pause:
            world.env.run(world.env.now + pause)
        if sampler is not None:
            sampler.look()
    return results


def _play(world: World, tree: Tree, services: dict[int, Service]) -> Play:
    match world.scenario.system:
        case "lifl":
            return ByReference(world, tree)
        case "serverful":
            return AlwaysOn(world, tree)
        case _:
            return Vanilla(world, tree, services)


class Sampler:
    """Looks at every node's counts once a period, as the controller does.

    A node at rest, whose load has faded, is left out until something happens there: the sample it
    then gets first is that of the last look, so its rate is not thinned by its rest.
    """

    def __init__(self, world: World, plans: Planner) -> None:
        self._world = world
        self._plans = plans
        self._period = world.scenario.policies.estimate_seconds
        self._looked = world.env.now
        self._active: set[int] = set()
        self._known: dict[int, tuple[int, int, float]] = {}
        world.sampled = True
        world.env.process(self._run())

    def _run(self) -> Generator[simpy.Event, object, None]:
        while True:
            yield self._world.env.timeout(self._period)
            self.look()

    def look(self) -> None:
        """Take what is counted now."""
        now, touched = self._world.env.now, self._world.touched
        for number in sorted(touched - self._active):
            self._active.add(number)
            self._plans.sample(number, *self._known.get(number, (0, 0, 0.0)), self._looked)
        for number in sorted(self._active):
            node = self._world.nodes[number]
            self._known[number] = counts = (node.arrived, node.added, node.waited)
            load = self._plans.sample(number, *counts, now)
            if load < QUIET and not node.since and number not in touched:
                self._active.remove(number)
        touched.clear()
        self._looked = now
