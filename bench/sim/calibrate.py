"""`python -m bench.sim.calibrate`: measures here what the simulation runs on; takes a minute.

Why: costs of this machine, taken from runs much smaller than those that are then simulated:

* **LIFL**: real rounds (``bench.harness``) of 1 and 4 clients with 4.5 and 44.8 MB. The
  processor time of each part of the platform is a sum of costs times counts, for N updates of B
  bytes and A additions:

      gateway      N·ingest + N·B·ingest_per_byte
      coordinator  N·claim + commit + B·commit_per_byte
      aggregators  A·handoff + A·B·sum_per_byte
      clients      N·B·client.per_byte
      the rest     round

  solved by least squares without negatives (``bench.sim.regress``). What a commit lasts beyond
  its processor time is told by the coordinator's moments.
* **Between nodes**: rounds of two nodes with one update each, at both sizes. What the sender's
  gateway takes beyond its update is ``forward``, the receiver's ``accept``, a byte.
* **A start**: processor time and clock of new aggregator processes (``bench.startup``).
* **Always-on, vanilla**: one client's hops over gRPC, with processor time of both ends; a start
  of one function with its sidecar. What a hop takes in a whole round is fitted to rounds that
  were played (``--rounds FILE``, see ``bench.sim.fit``).

Processor time is what counts, so a machine that is busy spoils little; what is measured by clock
(commit, starts) wants a quiet one.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import psutil

from bench import harness, startup
from bench.clients import Clients
from bench.compare.api import Load, Usage
from bench.sim import fit, processes, regress
from bench.sim.costs import DEFAULT, Aggregator, Client, Costs, Hop, Lifl
from bench.sizes import BYTES
from lifl.platform.local import LocalPlatform
from lifl.store import PoolGeometry
from lifl.topology import Plan

SIZES = (BYTES["45mb"] // 10, BYTES["45mb"])
NUMBERS = (1, 4)


class Effort(NamedTuple):
    """How often things are done: counted rounds, rounds to warm up, starts.

    Without ``nodes`` an object to another node is taken to cost what an update does.
    """

    rounds: int = 7
    warm: int = 2
    starts: int = 4
    nodes: bool = True


WHOLE, QUICK = Effort(), Effort(rounds=3, warm=1, starts=2, nodes=False)
"""A minute's measuring, and half of one's."""


def measure(before: Costs | None = None, effort: Effort = WHOLE) -> Costs:
    """Return costs of this machine; hops of the other sides are ``before``'s where there is one."""
    parts, client, sum_per_byte = platform_costs(effort=effort)
    start, start_wait = _start(effort.starts)
    made = Costs(
        client=Client(client),
        aggregator=Aggregator(start, start_wait, sum_per_byte),
        lifl=parts,
        serverful=stream_costs(effort=effort),
        vanilla=_function(effort.starts),
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


def platform_costs(
    sizes: Sequence[int] = SIZES, effort: Effort = WHOLE
) -> tuple[Lifl, float, float]:
    """Return LIFL's costs, a client's send a byte, and an addition a byte."""
    rows: list[dict[str, float]] = []
    for nbytes in sizes:
        document = harness.model_document(nbytes)
        with harness.platform() as platform, Clients(max(NUMBERS), document) as clients:
            rows += [_rounds(platform, clients, document, number, effort) for number in NUMBERS]
    updates = [(r["updates"], r["updates"] * r["nbytes"]) for r in rows]
    ingest, ingest_per_byte = regress.costs(updates, [r["gateway"] for r in rows])
    claim, commit, commit_per_byte = regress.costs(
        [(r["updates"], 1, r["nbytes"]) for r in rows], [r["coordinator"] for r in rows]
    )
    handoff, sum_per_byte = regress.costs(
        [(r["additions"], r["additions"] * r["nbytes"]) for r in rows],
        [r["aggregators"] for r in rows],
    )
    waits = [r["commit"] - commit - commit_per_byte * r["nbytes"] for r in rows]
    wait, wait_per_byte = regress.costs(
        [(1, r["nbytes"]) for r in rows], [max(1e-4, w) for w in waits]
    )
    (client,) = regress.costs([(b,) for _, b in updates], [r["clients"] for r in rows])
    forward, accept = client, ingest_per_byte
    if effort.nodes:
        forward, accept = _between(ingest_per_byte, effort)
    parts = Lifl(
        ingest=ingest,
        ingest_per_byte=ingest_per_byte,
        claim=claim,
        handoff=handoff,
        apply=statistics.median(r["agent"] for r in rows),
        round=statistics.median(r["rest"] for r in rows),
        commit=commit,
        commit_per_byte=commit_per_byte,
        commit_wait=wait,
        commit_wait_per_byte=wait_per_byte,
        forward=ingest,
        forward_per_byte=forward,
        accept=ingest,
        accept_per_byte=accept,
    )
    return parts, client, sum_per_byte


def _rounds(
    platform: harness.Platform, clients: Clients, document: bytes, number: int, effort: Effort
) -> dict[str, float]:
    """Return medians of rounds of so many clients: processor seconds of each part, and counts."""
    job = harness.Job(platform, f"calibrate-{number}", document, clients=number)
    rows: list[dict[str, float]] = []
    try:
        current = job.ready()
        plan = Plan.from_json(job.view()["plan"])
        senders = [p.pid for p in multiprocessing.active_children() if p.pid]
        for i in range(effort.rounds + effort.warm):
            requests, version = job.requests(current), current["version"] + 1
            before, sent = processes.spent(platform.pids()), processes.cpu(senders)
            clients.start(requests)
            job.check(clients.wait())
            end = job.wait_for_version(version)
            used = processes.since(before, processes.spent(platform.pids()))
            if i >= effort.warm:
                told = job.history()[-1]
                summed = told["summed"] - (time.time() - time.monotonic())
                rows.append(
                    used | {"clients": processes.cpu(senders) - sent, "commit": end - summed}
                )
            current = job.ready(after=current["round"])
    finally:
        job.stop()
        job.http.close()
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    leaves = sum(1 for r in plan.roles if r.parent is not None)
    return middle | {"updates": number, "nbytes": len(document), "additions": number + leaves}


def _between(ingest_per_byte: float, effort: Effort) -> tuple[float, float]:
    """Return processor seconds a byte of a partial at its sender's gateway, and its receiver's."""
    found: dict[int, tuple[float, float]] = {}
    for nbytes in SIZES:
        document = harness.model_document(nbytes)
        load = Load("calibrate", "45mb", 2, (0.0, 0.0))
        with _spread(load, document) as system:
            rows = []
            for i in range(effort.rounds + effort.warm):
                before = _gateways(system.platform)
                system.play()
                after = _gateways(system.platform)
                if i >= effort.warm:
                    rows.append(sorted(after[n] - before[n] for n in after))
            found[nbytes] = (
                statistics.median(r[0] for r in rows),
                statistics.median(r[1] for r in rows),
            )
    (small, few), (large, many) = sorted(found.items())
    lesser, greater = ((many[i] - few[i]) / (large - small) - ingest_per_byte for i in (0, 1))
    return max(0.0, lesser), max(0.0, greater)  # reading takes longer than sending


@contextlib.contextmanager
def _spread(load: Load, document: bytes) -> Iterator[Any]:
    from bench.compare.lifl import Lifl as Played

    with Played(
        load, _Nobody(), document, nodes=2, switches={"LIFL_PLACEMENT": "worstfit"}
    ) as system:
        yield system


class _Nobody:
    """A group that counts nothing."""

    def adopt(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()

    def usage(self) -> Usage:
        """Return nothing."""
        return Usage(0.0, 0.0)

    def memory(self) -> int:
        """Return nothing."""
        return 0


def _gateways(platform: harness.Platform) -> dict[str, float]:
    """Return processor seconds of each node's gateway so far."""
    found: dict[str, float] = {}
    for pid in platform.pids():
        if processes.part(pid) == "gateway":
            node = psutil.Process(pid).environ()["LIFL_NODE"]
            found[node] = found.get(node, 0.0) + processes.cpu([pid])
    return found


def _start(starts: int) -> tuple[float, float]:
    """Return processor seconds of an aggregator's start, and what it lasts beyond."""
    # these are the bench's own, which nobody else has a use for
    with startup._agent() as (paths, admin, dataplane):
        pages = -(-startup.SCHEMA.float_bytes // 4096) * 4096
        geometry = PoolGeometry(16, pages, 16384)
        admin.create_domain(startup.JOB, os.geteuid(), geometry)
        platform = LocalPlatform(paths, dataplane=dataplane, coordinator_url="http://127.0.0.1:9")
        names = [f"agg-{i}" for i in range(starts + 1)]
        used, lasted = [], []
        try:
            for name in names:
                known = set(processes.below())
                lasted.append(startup._cold_start(platform, admin, name) / 1e3)
                used.append(processes.cpu([p for p in processes.below() if p not in known]))
        finally:
            platform.stop(names)
    cpu, seconds = statistics.median(used[1:]), min(lasted[1:])
    return cpu, max(0.0, seconds - cpu)


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
        with Serverful(load, _Nobody(), document) as system:
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


def _function(starts: int) -> Hop:
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
