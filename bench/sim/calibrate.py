"""`python -m bench.sim.calibrate`: measures here what the simulation runs on; takes a minute.

Why: a simulation is of the machine whose costs it has, so one command takes them all: LIFL's
parts (:mod:`.platform_costs`), hops and starts of the other sides (:mod:`.hop_costs`). What a hop
takes in a whole round is fitted to rounds that were played (``--rounds FILE``, ``bench.sim.fit``).

Processor time is what counts, so a machine that is busy spoils little; what is measured by clock
(commit, starts) wants a quiet one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from bench.sim import fit
from bench.sim.costs import DEFAULT, Aggregator, Client, Costs
from bench.sim.effort import WHOLE, Effort
from bench.sim.hop_costs import function_costs, stream_costs
from bench.sim.platform_costs import platform_costs, start_costs


def measure(before: Costs | None = None, effort: Effort = WHOLE) -> Costs:
    """Return costs of this machine; hops of the other sides are ``before``'s where there is one."""
    parts, client, sum_per_byte = platform_costs(effort=effort)
    start, start_wait = start_costs(effort.starts)
    made = Costs(
        client=Client(client),
        aggregator=Aggregator(start, start_wait, sum_per_byte),
        lifl=parts,
        serverful=stream_costs(effort=effort),
        vanilla=function_costs(effort.starts),
        origin=_origin(),
    )
    if before is not None:
        made = made.with_hops(
            serverful=replace(before.serverful, send_per_byte=made.serverful.send_per_byte),
            vanilla=replace(
                before.vanilla, start=made.vanilla.start, start_wait=made.vanilla.start_wait
            ),
        )
    return made


def _origin() -> Mapping[str, Any]:
    from bench.compare.machine import machine

    return {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "lifl": "real rounds of 1 and 4 clients, 4.5 and 44.8 MB (bench.sim.calibrate)",
        "aggregator": "new processes, and the additions of those rounds",
        "serverful": "one stream at a time over gRPC, 4.5 and 44.8 MB",
        "vanilla": "starts of one function with its sidecar",
        "hops": "per_byte and serial are not fitted to rounds",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, fit if there are rounds, and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sim.calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=DEFAULT, help="the file to write")
    parser.add_argument(
        "--rounds",
        type=Path,
        metavar="FILE",
        help="rounds.json of make compare, to fit the other sides' hops to",
    )
    args = parser.parse_args(arguments)
    made = measure()
    if args.rounds is not None:
        found = fit.fitted(made, fit.read(args.rounds))
        told = f"per_byte and serial fitted to rounds of {', '.join(found.workloads) or 'none'}"
        made = replace(found.costs, origin={**made.origin, "hops": told})
    made.save(args.out)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
