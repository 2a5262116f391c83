"""Simulates rounds of one side, one after the other."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import numpy as np

from bench.sim.alwayson import AlwaysOn
from bench.sim.byref import ByReference
from bench.sim.costs import Costs
from bench.sim.planning import Tree, planner, without_starts
from bench.sim.scenario import Result, Scenario
from bench.sim.vanilla import Service, Vanilla
from bench.sim.world import Play, Seconds, World

MANY = 100_000


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
    return results


def _play(world: World, tree: Tree, services: dict[int, Service]) -> Play:
    match world.scenario.system:
        case "lifl":
            return ByReference(world, tree)
        case "serverful":
            return AlwaysOn(world, tree)
        case _:
            return Vanilla(world, tree, services)
