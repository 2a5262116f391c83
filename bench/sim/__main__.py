"""`lifl sim`, and `python -m bench.sim`: simulate, print a table or JSON."""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lifl.errors import ConfigError, LiflError

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate what was asked for; return the exit status of `lifl`."""
    try:
        from bench.sim import options
        from bench.sim.costs import Costs
    except ModuleNotFoundError as e:
        print(f"error: {e}; pip install 'lifl[compare]'", file=sys.stderr)
        return FAILED
    args = options.parser().parse_args(arguments)
    try:
        costs = Costs.load(args.costs)
        arrivals = options.rounds(args)
        outcomes = []
        for system in args.systems:
            if not args.json and sys.stderr.isatty():
                print(f"{system} …", file=sys.stderr)
            outcomes.append(_outcome(options.scenario(args, system), costs, arrivals, args.pause))
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        return USAGE
    except LiflError as e:
        print(f"error: {e}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    told = {
        "clients": args.clients,
        "nodes": args.nodes,
        "cores": args.cores,
        "model_bytes": args.model,
        "arrivals": args.arrivals,
        "rounds": args.rounds,
        "seed": args.seed,
        "costs": dict(costs.origin),
        "systems": outcomes,
    }
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        _table(told)
    return 0


def _outcome(scenario: Any, costs: Any, arrivals: Sequence[Any], pause: float) -> dict[str, Any]:
    from bench.sim.simulation import simulate

    began = time.perf_counter()
    with _without_collections():
        results = simulate(scenario, costs, arrivals, pause=pause)
    return {
        "system": scenario.system,
        "seconds": statistics.median(r.seconds for r in results),
        "cpu_seconds": sum(r.cpu for r in results),
        "aggregators_created": sum(r.created for r in results),
        "nodes": max(r.nodes for r in results),
        "peak_bytes": max(r.peak for r in results),
        "peak_node_bytes": max(r.peak_node for r in results),
        "rounds": [dict(r.to_json()) for r in results],
        "simulated_in_seconds": round(time.perf_counter() - began, 3),
        "simulated_in_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
    }


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Look for cycles in millions of objects only where it pays, between rounds."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _table(told: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    size = told["model_bytes"] / 1e6
    table = Table(
        title=f"{told['clients']:,} clients a round, {size:g} MB each ({told['arrivals']}), "
        f"{told['nodes']:,} nodes of {told['cores']} processors, {told['rounds']} round(s)",
        title_justify="left",
    )
    for column in ("side", "round", "CPU", "aggregators started", "nodes", "memory", "on one node"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for o in told["systems"]:
        table.add_row(
            o["system"],
            _time(o["seconds"]),
            _time(o["cpu_seconds"]),
            f"{o['aggregators_created']:,}",
            f"{o['nodes']:,}",
            _size(o["peak_bytes"]),
            _size(o["peak_node_bytes"]),
        )
    console = Console()
    console.print(table)
    machine = (told["costs"].get("machine") or {}).get("cpu", "an unknown machine")
    took = sum(o["simulated_in_seconds"] for o in told["systems"])
    most = max(o["simulated_in_peak_mb"] for o in told["systems"])
    console.print(
        f"round: median of the rounds; CPU and starts: of all together. Costs are of {machine}; "
        f"simulated in {took:.1f} s with {most} MB.",
        highlight=False,
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 3600:,.1f} h" if seconds >= 36_000 else f"{seconds:,.0f} s"


def _size(nbytes: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if nbytes >= size:
            return f"{nbytes / size:,.1f} {unit}"
    return f"{nbytes / 1e6:,.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
