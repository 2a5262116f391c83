"""What a hop of the sides that hand on by value costs, from rounds that were really played.

Why: an always-on server and a vanilla chain are many processes whose parts would have to be
measured one by one; what they take together in whole rounds is known. So few numbers of each
side are fitted, on a few of the workloads, and the others say how far they carry
(``bench.sim.validate``). It must not look at what it is judged by.

**Which workloads.** Of each model's the burst with fewest clients, at most two (smallest models
first): :func:`chosen`. All others are for validation.

**Processor time.** Of N updates and L partial sums of B bytes and S starts of functions a round
takes

    always-on   cpu = (N + L)·(fixed + per_byte·B) + L·send_per_byte·B
    vanilla     cpu = (N + L)·(fixed + per_byte·B) + S·start

``fixed``, ``send_per_byte`` and ``start`` were measured (``bench.sim.calibrate``), L is
known from the tree, S from the round; ``per_byte`` is the median of what each workload's median
round gives.

**Wall time.** ``serial``, the share of a hop that is one at a time, is the one of 0, 0.05, …, 1
with which simulated and measured times of the chosen workloads differ least (sum of the
relative errors).

LIFL's own costs are all measured, none is fitted.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.compare import shapes
from bench.sim.costs import Costs, Hop
from bench.sim.scenario import Result, Scenario
from bench.sim.simulation import simulate
from bench.sim.vanilla import TICK_SECONDS
from bench.sizes import BYTES
from controller.settings import PolicySettings
from lifl.errors import ConfigError

ABLATION = Path(__file__).parents[1] / "ablation.json"
LIFL = ("lifl", "lifl-socket")
FITTED = ("serverful", "vanilla")
WARM = "vanilla-warm"
"""Vanilla with functions that stay from round to round."""
STEP = "step-"
"""How the ablation's sides are called; a number follows."""
STEP_ROUNDS = 3
MODELS = 2
STEPS = 20
VANILLA_NODES = 5
ALL_LEAVES = 1 << 20
PHASES = 5
"""Autoscalers tick every two seconds; a round begins anywhere between."""


@dataclass(frozen=True, slots=True)
class Case:
    """What was played of one workload by one side: medians of its rounds of ``clients`` updates.

    ``wall`` and ``cpu`` are seconds, ``created`` aggregators that were started.
    """

    workload: str
    side: str
    nbytes: int
    clients: int
    arrivals: tuple[float, ...]
    wall: float
    cpu: float
    created: float
    burst: bool


@dataclass(frozen=True, slots=True)
class Fitted:
    """Costs, and the workloads that they were fitted to."""

    costs: Costs
    workloads: tuple[str, ...]


def read(path: Path) -> list[Case]:
    """Return the cases of a ``rounds.json``; raises ConfigError if it is none."""
    try:
        return cases(json.loads(path.read_text()))
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    except ValueError as e:
        raise ConfigError(f"{path} is not JSON: {e}") from e


def cases(run: Mapping[str, Any]) -> list[Case]:
    """Return what can be simulated of a run (``Runner.to_json`` of ``bench.compare.runner``).

    Sides that failed or were not run are left out, and warm-ups. A workload whose rounds are
    of different numbers of clients makes a case of each.

    Raises
    ------
    ConfigError
        if a field is missing; it says which, and where.
    """
    found: list[Case] = []
    for i, workload in enumerate(_get(run, "workloads", "the run")):
        name = _get(workload, "name", f"workload {i}")
        arrivals = tuple(_get(workload, "arrivals", name))
        nbytes = _nbytes(_get(workload, "model", name), name)
        for side, told in _get(workload, "sides", name).items():
            if not simulated(side):
                continue
            where = f"{name}, {side}"
            by_number: dict[int, list[Mapping[str, Any]]] = {}
            for played in told.get("rounds") or ():
                if played.get("index", 0) >= 0:
                    by_number.setdefault(_get(played, "updates", where), []).append(played)
            for number, rounds in sorted(by_number.items()):
                found.append(
                    Case(
                        workload=name,
                        side=side,
                        nbytes=nbytes,
                        clients=number,
                        arrivals=arrivals[:number],
                        wall=_median(rounds, "wall", where),
                        cpu=_median(rounds, "cpu", where),
                        created=_median(rounds, "created", where),
                        burst=max(arrivals[:number], default=0.0) == 0.0 and len(by_number) == 1,
                    )
                )
    return found


def chosen(given: Sequence[Case]) -> tuple[str, ...]:
    """Return the workloads to fit on: the module says which."""
    smallest: dict[int, Case] = {}
    for case in given:
        if not case.burst or case.side not in FITTED:
            continue
        known = smallest.get(case.nbytes)
        if known is None or case.clients < known.clients:
            smallest[case.nbytes] = case
    return tuple(smallest[n].workload for n in sorted(smallest)[:MODELS])


def fitted(costs: Costs, given: Sequence[Case]) -> Fitted:
    """Return costs whose hops are those of the chosen workloads; sides without any stay."""
    workloads = chosen(given)
    hops: dict[str, Hop] = {}
    for side in FITTED:
        here = [c for c in given if c.side == side and c.workload in workloads]
        if here:
            hops[side] = _fit(side, costs, here)
    return Fitted(costs.with_hops(**hops), workloads)


def _fit(side: str, costs: Costs, here: Sequence[Case]) -> Hop:
    hop: Hop = getattr(costs, side)
    per_byte = statistics.median(_per_byte(case, hop) for case in here)
    hop = replace(hop, per_byte=max(0.0, per_byte))
    tried = [replace(hop, serial=i / STEPS) for i in range(STEPS + 1)]
    return min(
        tried,
        key=lambda h: sum(
            abs(time_of(c, costs.with_hops(**{side: h})) - c.wall) / c.wall for c in here
        ),
    )


def _per_byte(case: Case, hop: Hop) -> float:
    partials = _partials(case)
    hops = case.clients + partials
    sent = partials * hop.send_per_byte * case.nbytes
    rest = case.cpu - hops * hop.fixed - sent - case.created * hop.start
    return rest / hops / case.nbytes


def _partials(case: Case) -> int:
    """Return how many partial sums go to a top: none if there is one leaf, which is the top."""
    nodes = min(VANILLA_NODES, case.clients) if case.side == "vanilla" else 1
    small, more = divmod(case.clients, nodes)
    leaves = (nodes - more) * -(-small // 2) + more * -(-(small + 1) // 2)
    return leaves if leaves > 1 else 0


def time_of(case: Case, costs: Costs) -> float:
    """Return what a round of the case takes in the simulation, in seconds."""
    return statistics.median(r.seconds for r in results(case, costs))


def results(case: Case, costs: Costs) -> list[Result]:
    """Return simulated rounds of the case that are to be compared with the measured median."""
    scenario = as_scenario(case)
    rounds = [np.asarray(case.arrivals, np.float64)]
    if case.side.startswith(STEP):
        return simulate(scenario, costs, rounds * (1 + STEP_ROUNDS))[1:]
    if case.side == WARM:
        return simulate(scenario, costs, rounds * (1 + STEP_ROUNDS))[1:]
    if case.side != "vanilla":
        return simulate(scenario, costs, rounds, warm=True)
    leads = [TICK_SECONDS * (i + 0.5) / PHASES for i in range(PHASES)]
    return [simulate(scenario, costs, rounds, lead=t)[0] for t in leads]


def as_scenario(case: Case) -> Scenario:
    """Return the scenario of a case: all on one machine of as many processors as this one has."""
    same = Scenario(
        system=case.side if case.side in FITTED else "lifl",
        nbytes=case.nbytes,
        cores=len(os.sched_getaffinity(0)),
        leaves=ALL_LEAVES,
        from_zero=True,
        one_machine=True,
    )
    if case.side in ("vanilla", WARM):
        return replace(
            same, system="vanilla", nodes=VANILLA_NODES, from_zero=case.side == "vanilla"
        )
    if not case.side.startswith(STEP):
        return same
    about = json.loads(ABLATION.read_text())
    switches = {
        "LIFL_NODE_CAPACITY": str(about["node_capacity"]),
        "LIFL_KEEP_SECONDS": str(about["keep_seconds"]),
    }
    for step in about["steps"][: int(case.side.split("-")[1]) + 1]:
        switches |= step["set"]
    return replace(
        same,
        nodes=about["nodes"],
        fan_in=about["fan_in"],
        policies=PolicySettings.from_env(switches),
    )


def simulated(side: str) -> bool:
    """Return whether a side is one that can be simulated."""
    return side in (*LIFL, *FITTED, WARM) or side.startswith(STEP)


def _nbytes(model: str, where: str) -> int:
    if model in BYTES:
        return BYTES[model]
    if model == "digits":
        return shapes.schema(model).document_bytes
    if model.endswith("kb") and model[:-2].isdigit():
        return int(model[:-2]) * 1000
    raise ConfigError(f"{where}: how large a model {model!r} is, is not known")


def _median(rounds: Sequence[Mapping[str, Any]], key: str, where: str) -> float:
    return float(statistics.median(_get(r, key, where) for r in rounds))


def _get(given: Mapping[str, Any], key: str, where: str) -> Any:
    if not isinstance(given, Mapping) or given.get(key) is None:
        raise ConfigError(f"{where}: {key!r} is missing")
    return given[key]
