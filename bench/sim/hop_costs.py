"""What one hop of the other sides costs here, and a start of one function.

Why: one client's hops over gRPC, with processor time of both ends, and one function with its
sidecar tell what does not depend on how busy a round is. What a hop takes in a whole round is
fitted to rounds that were played (``bench.sim.fit``). It must not know LIFL.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import harness
from bench.compare.api import Load
from bench.sim import processes
from bench.sim.costs import Hop
from bench.sim.effort import SIZES, WHOLE, Effort, Nobody


def stream_costs(sizes: Sequence[int] = SIZES, effort: Effort = WHOLE) -> Hop:
    """Return what one stream over gRPC takes at both ends, when it is the only one.

    gRPC's client has a thread a stream that ends with it, so whole processes are looked at, whose
    accounts are in ticks: over all rounds together.
    """
    from bench.compare.serverful.system import Serverful

    spent: list[tuple[int, float, float]] = []
    for nbytes in sorted(sizes):
        document = harness.model_document(nbytes)
        load = Load("calibrate", "45mb", 1, (0.0,))
        known = set(processes.below())
        with Serverful(load, Nobody(), document) as system:
            fresh = [p for p in processes.below() if p not in known]
            servers = [p for p in fresh if "serverful.aggregator" in processes.command(p)]
            for _ in range(effort.warm):
                system.play()
            here, all_ = processes.whole(servers), processes.whole(fresh)
            for _ in range(effort.rounds):
                system.play()
            received = (processes.whole(servers) - here) / effort.rounds
            sent = (processes.whole(fresh) - all_) / effort.rounds - received
        spent.append((len(document), received, sent))
    (small, *few), (large, *many) = spent
    receive, send = (max(0.0, (many[i] - few[i]) / (large - small)) for i in (0, 1))
    fixed = max(0.0, few[0] - receive * small)
    return Hop(fixed=fixed, per_byte=receive, send_per_byte=send, serial=0.0)


def function_costs(starts: int) -> Hop:
    """Return what starting a function with its sidecar takes; its hop is left to be fitted."""
    from bench.compare.vanilla.replica import Replica

    used, lasted = [], []
    with tempfile.TemporaryDirectory(prefix="lifl-calibrate-") as directory:
        for i in range(starts):
            known = set(processes.below())
            replica = Replica(f"calibrate-{i}", 2, Path(directory) / "log")
            try:
                replica.await_ready()
                used.append(processes.cpu([p for p in processes.below() if p not in known]))
                lasted.append(replica.start_seconds)
            finally:
                replica.end()
                replica.wait()
    cpu = statistics.median(used)
    return Hop(
        fixed=0.0,
        per_byte=0.0,
        send_per_byte=0.0,
        serial=0.0,
        start=cpu,
        start_wait=max(0.0, min(lasted) - cpu),
    )
