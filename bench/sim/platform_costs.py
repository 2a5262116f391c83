"""What LIFL's parts cost here: small real rounds, solved for the terms of the model.

Why: real rounds (``bench.harness``) of 1 and 4 clients with 4.5 and 44.8 MB are much smaller than
those that are then simulated. The processor time of each part of the platform is a sum of costs
times counts, for N updates of B bytes and A additions:

    gateway      N·ingest + N·B·ingest_per_byte
    coordinator  N·claim + commit + B·commit_per_byte
    aggregators  A·handoff + A·B·sum_per_byte
    clients      N·B·client.per_byte
    the rest     round

solved by least squares without negatives (``bench.sim.regress``). What a commit lasts beyond
its processor time is told by the coordinator's moments; a checkpoint that follows later, of
which no reader knows, is not within. *Between nodes*: rounds of two nodes with
one update each, at both sizes; what the sender's gateway takes beyond its update is ``forward``,
the receiver's ``accept``, a byte. *A start*: processor time and clock of new aggregator processes
(``bench.startup``). It must not know the other sides.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psutil

from bench import driver, harness, startup
from bench.clients import Clients
from bench.compare.api import Load
from bench.compare.steps import BEHIND
from bench.sim import processes, regress
from bench.sim.costs import Lifl
from bench.sim.effort import SIZES, WHOLE, Effort, Nobody
from lifl.platform.local import LocalPlatform
from lifl.store import PoolGeometry
from lifl.topology import Plan

NUMBERS = (1, 4)


def platform_costs(
    sizes: Sequence[int] = SIZES, effort: Effort = WHOLE
) -> tuple[Lifl, float, float]:
    """Return LIFL's costs, a client's send a byte, and an addition a byte."""
    rows: list[dict[str, float]] = []
    for nbytes in sizes:
        document = harness.model_document(nbytes)
        with _platform() as platform, Clients(max(NUMBERS), document) as clients:
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


@contextlib.contextmanager
def _platform() -> Iterator[harness.Platform]:
    """Run a platform set up as the comparison's."""
    with harness.environment(BEHIND), harness.platform() as platform:
        yield platform


def _rounds(
    platform: harness.Platform, clients: Clients, document: bytes, number: int, effort: Effort
) -> dict[str, float]:
    """Return medians of rounds of so many clients: processor seconds of each part, and counts."""
    job = driver.Job(platform, f"calibrate-{number}", document, clients=number)
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
            job.await_kept(version)
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

    spread = BEHIND | {"LIFL_PLACEMENT": "worstfit"}
    with Played(load, Nobody(), document, nodes=2, switches=spread) as system:
        yield system


def _gateways(platform: harness.Platform) -> dict[str, float]:
    """Return processor seconds of each node's gateway so far."""
    found: dict[str, float] = {}
    for pid in platform.pids():
        if processes.part(pid) == "gateway":
            node = psutil.Process(pid).environ()["LIFL_NODE"]
            found[node] = found.get(node, 0.0) + processes.cpu([pid])
    return found


def start_costs(starts: int) -> tuple[float, float]:
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
