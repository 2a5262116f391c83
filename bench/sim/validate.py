"""`python -m bench.sim.validate rounds.json`: how far simulated rounds are from real ones.

Why: a simulation that nobody held against the real thing is a drawing. Each workload that
``make compare`` played is simulated: the same arrivals, sizes and tree, all processes and clients
on the processors of one machine. The error is |simulated − measured| / measured of the median time
to the global model.

A side's rows on the workloads that its hop was fitted to (``bench.sim.fit``) are shown but do not
count. Costs are measured first, here and now: those of a file were taken in another hour,
maybe of another machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.sim import fit
from bench.sim.costs import Costs
from lifl.errors import ConfigError, LiflError


def run(given: Mapping[str, Any], costs: Costs | None = None) -> dict[str, Any]:
    """Return errors of a run of ``make compare`` (what its ``rounds.json`` holds).

    ``samples`` are the errors that count, ``sim_error`` their median, ``by_side`` the median of
    each side's, ``rows`` all that was simulated, ``fitted_on`` the workloads of the fit.

    Raises
    ------
    ConfigError
        if a field is missing, or nothing was played that can be simulated.
    """
    cases = fit.cases(given)
    fitted = fit.fitted(costs or measured(), cases)
    rows: list[dict[str, Any]] = []
    for case in cases:
        results = fit.results(case, fitted.costs)
        seconds = statistics.median(r.seconds for r in results)
        rows.append(
            {
                "workload": case.workload,
                "side": case.side,
                "updates": case.clients,
                "measured": case.wall,
                "simulated": seconds,
                "created": case.created,
                "simulated_created": statistics.median(r.created for r in results),
                "error": abs(seconds - case.wall) / case.wall,
                "fitted": case.side in fit.FITTED and case.workload in fitted.workloads,
            }
        )
    counting = [row for row in rows if not row["fitted"]]
    if not counting:
        raise ConfigError("no round was played that could be compared with a simulated one")
    sides = dict.fromkeys(row["side"] for row in counting)
    return {
        "samples": [row["error"] for row in counting],
        "sim_error": statistics.median(row["error"] for row in counting),
        "by_side": {s: statistics.median(_errors(counting, s)) for s in sides},
        "rows": rows,
        "fitted_on": list(fitted.workloads),
        "hops": {
            name: {"per_byte": hop.per_byte, "serial": hop.serial, "start": hop.start}
            for name, hop in (
                ("serverful", fitted.costs.serverful),
                ("vanilla", fitted.costs.vanilla),
            )
        },
        "costs": dict(fitted.costs.origin),
    }


def measured(*, quick: bool = False) -> Costs:
    """Measure this machine's costs, which takes a minute; half of one if ``quick``."""
    from bench.sim import calibrate, effort  # starts platforms: only who measures has a use for it

    return calibrate.measure(effort=effort.QUICK if quick else effort.WHOLE)


def _errors(rows: Sequence[Mapping[str, Any]], side: str) -> list[float]:
    return [row["error"] for row in rows if row["side"] == side]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print rows and medians of a file; exit status 1 if there is nothing to compare."""
    parser = argparse.ArgumentParser(prog="python -m bench.sim.validate", description=__doc__)
    parser.add_argument("rounds", type=Path, nargs="?", default=Path("results/compare/rounds.json"))
    parser.add_argument("--costs", type=Path, metavar="FILE", help="use these, measure none")
    args = parser.parse_args(arguments)
    path = args.rounds
    try:
        try:
            given = json.loads(path.read_text())
        except (OSError, ValueError) as e:
            raise ConfigError(f"{path}: {e}") from e
        found = run(given, None if args.costs is None else Costs.load(args.costs))
    except LiflError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    for row in found["rows"]:
        print(
            f"{row['workload']:24} {row['side']:18} {row['updates']:4}  measured "
            f"{row['measured']:7.3f} s  simulated {row['simulated']:7.3f} s  "
            f"{100 * row['error']:4.0f} %{'  (fitted)' if row['fitted'] else ''}"
        )
    sides = "  ".join(f"{side} {value:.2f}" for side, value in found["by_side"].items())
    print(f"sim_error {found['sim_error']:.3f}; by side: {sides}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
