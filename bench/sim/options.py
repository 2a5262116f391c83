"""What `lifl sim` can be asked, and the scenario that comes of it.

Why: options are for people and have units of theirs (megabytes, gigabits); the simulation has
bytes and seconds. It must not simulate.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.compare import arrivals
from bench.sim.costs import DEFAULT
from bench.sim.scenario import GIGABIT, SYSTEMS, Scenario
from bench.sim.world import Seconds
from bench.sizes import BYTES
from controller.plan.placement import Policy
from controller.settings import PolicySettings

MB = 1e6
EPILOG = """examples:
  lifl sim                                             2,800 clients on 50 nodes
  lifl sim --clients 1000000 --nodes 10000             a burst of a million
  lifl sim --arrivals diurnal --day 86400 --clients 1000000 --nodes 100
  lifl sim --load diurnal --rounds 24 --pause 600      rounds of a day, fewer clients at night
  lifl sim --systems lifl --placement worstfit --no-reuse --lazy

Costs were measured on the machine that bench/sim/costs.json names; see bench/sim/costs.py, and
python -m bench.sim.calibrate for this one. bench/sim/byref.py says what is not modelled."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="lifl sim",
        description="Simulate rounds of LIFL, an always-on server and vanilla serverless. "
        "The controller's own code decides; time is what was measured of small runs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument_group("what").add_argument
    add(
        "--systems",
        nargs="+",
        choices=SYSTEMS,
        default=list(SYSTEMS),
        metavar="SIDE",
        help=f"of {', '.join(SYSTEMS)}; default: all",
    )
    add("--clients", type=_count, default=2800, help="of a round, at most (2800)")
    add("--nodes", type=_count, default=50, help="(50)")
    add("--rounds", type=_count, default=1, help="(1)")
    add(
        "--model",
        type=_model,
        default=BYTES["45mb"],
        metavar="SIZE",
        help="an update: 45mb, 85mb, 233mb, or a number of MB (45mb)",
    )
    add(
        "--fan-in",
        type=_count,
        help="updates a leaf, or a function, is for (2; LIFL: as few leaves as keep up)",
    )
    add = made.add_argument_group("when").add_argument
    add(
        "--arrivals",
        choices=("burst", "poisson", "diurnal"),
        default="burst",
        help="how the clients of a round come: all at once, at a rate, along a day (burst)",
    )
    add("--rate", type=_positive, help="of Poisson arrivals, a second (a tenth of the clients)")
    add("--day", type=_positive, default=86400.0, help="seconds of a day (86400)")
    add(
        "--load",
        choices=("constant", "diurnal"),
        default="constant",
        help="how many clients rounds have: all the same, or fewer at night (constant)",
    )
    add("--pause", type=_not_negative, default=0.0, help="seconds between rounds (0)")
    add("--seed", type=int, default=1, help="the same seed gives the same result (1)")
    add = made.add_argument_group("machines").add_argument
    add(
        "--cores",
        type=_count,
        default=2,
        help="processors of a node; costs are of a machine with few (2)",
    )
    add("--line", type=_positive, default=10.0, help="a node's network, Gbit/s (10)")
    add("--client-line", type=_positive, help="a client's network, Gbit/s (as a node's)")
    add("--trip", type=_not_negative, default=0.2, help="between nodes and back, ms (0.2)")
    add("--memory", type=_positive, default=64.0, help="of a node, GB (64)")
    add = made.add_argument_group(
        "policies of LIFL, as the controller's LIFL_* settings"
    ).add_argument
    policies = PolicySettings()
    add("--placement", type=Policy, choices=list(Policy), default=policies.placement)
    add(
        "--capacity",
        type=_positive,
        default=policies.capacity,
        help=f"of a node, updates ({policies.capacity:g})",
    )
    add(
        "--keep",
        type=_positive,
        default=policies.keep_seconds,
        help=f"seconds an idle aggregator is kept ({policies.keep_seconds:g})",
    )
    add("--no-hierarchy", action="store_true")
    add("--no-reuse", action="store_true")
    add("--lazy", action="store_true")
    add = made.add_argument_group("other sides").add_argument
    add("--middles", action="store_true", help="give vanilla a middle a node (flatters it)")
    add("--from-zero", action="store_true", help="vanilla's functions are gone before each round")
    add = made.add_argument_group("output").add_argument
    add("--costs", type=Path, default=DEFAULT, metavar="FILE", help="what things cost")
    add("--json", action="store_true", help="print JSON for a script")
    return made


def scenario(args: argparse.Namespace, system: str) -> Scenario:
    """Return the scenario of one side."""
    line = args.line * GIGABIT
    return Scenario(
        system=system,
        nbytes=args.model,
        nodes=args.nodes,
        cores=args.cores,
        fan_in=args.fan_in,
        policies=PolicySettings(
            placement=args.placement,
            hierarchy=not args.no_hierarchy,
            reuse=not args.no_reuse,
            eager=not args.lazy,
            capacity=args.capacity,
            keep_seconds=args.keep,
        ),
        line=line,
        client_rate=line if args.client_line is None else args.client_line * GIGABIT,
        trip=args.trip / 1e3,
        memory=args.memory * 1e9,
        middles=args.middles,
        from_zero=args.from_zero,
        seed=args.seed,
    )


def rounds(args: argparse.Namespace) -> list[Seconds]:
    """Return the arrivals of each round, sorted: the same for every side."""
    return list(_rounds(args))


def _rounds(args: argparse.Namespace) -> Iterator[Seconds]:
    numbers = (args.clients,) * args.rounds
    if args.load == "diurnal":
        numbers = arrivals.sizes(args.rounds, args.clients, steps=24)
    rate = args.rate or max(1.0, args.clients / 10)
    for i, number in enumerate(numbers):
        seed = args.seed * 1_000_003 + i
        if args.arrivals == "burst":
            yield np.zeros(number)
        elif args.arrivals == "poisson":
            yield np.asarray(arrivals.poisson(number, rate, seed))
        else:
            yield np.asarray(arrivals.diurnal(number, args.day, seed))


def _count(raw: str) -> int:
    value = int(raw)
    if value < 1:
        raise argparse.ArgumentTypeError("use a whole number from 1 on")
    return value


def _positive(raw: str) -> float:
    value = float(raw)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("use a number above 0")
    return value


def _not_negative(raw: str) -> float:
    value = float(raw)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("use a number from 0 on")
    return value


def _model(raw: str) -> int:
    if raw in BYTES:
        return BYTES[raw]
    return int(_positive(raw.removesuffix("mb")) * MB)
