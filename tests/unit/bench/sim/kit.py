"""A ``rounds.json`` of rounds that were never played: what the simulation itself says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.compare import arrivals
from bench.sim import fit
from bench.sim.costs import Costs
from bench.sizes import BYTES

WORKLOADS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "burst-8x45mb": ("45mb", arrivals.burst(8)),
    "burst-20x45mb": ("45mb", arrivals.burst(20)),
    "poisson-12x85mb": ("85mb", arrivals.poisson(12, 4.0)),
}
SIDES = ("lifl", "serverful", "vanilla", "flower")


def run(costs: Costs, pace: float = 1.0) -> dict[str, Any]:
    """Return a run whose rounds took ``pace`` times what they take by ``costs``."""
    return {"workloads": [_workload(name, costs, pace) for name in WORKLOADS]}


def _workload(name: str, costs: Costs, pace: float) -> dict[str, Any]:
    model, times = WORKLOADS[name]
    sides = {side: {"rounds": _rounds(name, side, costs, pace)} for side in SIDES}
    return {"name": name, "model": model, "arrivals": list(times), "sides": sides}


def _rounds(name: str, side: str, costs: Costs, pace: float) -> list[dict[str, Any]]:
    model, times = WORKLOADS[name]
    if side == "flower":
        return [_round(0, len(times), 9.0, 9.0, 0)]
    burst = max(times) == 0.0
    case = fit.Case(name, side, BYTES[model], len(times), times, 1.0, 1.0, 0.0, burst)
    played = fit.results(case, costs)
    warm_up = _round(-1, len(times), 1e3, 1e3, 50)
    return [
        warm_up,
        *(_round(i, r.updates, pace * r.seconds, r.cpu, r.created) for i, r in enumerate(played)),
    ]


def _round(index: int, updates: int, wall: float, cpu: float, created: int) -> dict[str, Any]:
    return {"index": index, "updates": updates, "wall": wall, "cpu": cpu, "created": created}
