"""A whole round over its floor: 8 client processes, 45 MB each, and the eager tail.

Barrier release to the new model readable by GET, checkpoint included. The floor
(``bench/floor.py``) runs in turn with it, with client processes of the same kind.
The bench fails if its own floor ingests below 0.8 of raw loopback.
"""

from __future__ import annotations

import mmap
import os
import socket
import statistics
import time
from typing import NamedTuple

import numpy as np

from bench import driver, harness
from bench.clients import Clients
from bench.figures import Figure, at_most, ratios
from bench.floor import Floor, receive
from bench.sizes import BYTES
from functions.aggregator.blas import best_kernel
from lifl.topology import Plan

CLIENTS = 8
FAN_IN = 2
N = 15
WARM = 5


class Round(NamedTuple):
    """One platform round: seconds of wall time, CPU of all processes, and of the tail."""

    wall: float
    cpu: float
    tail: float


def run() -> list[Figure]:
    """Return ``round_over_floor``, ``round_cpu_over_floor`` and ``eager_tail_passes``."""
    document = harness.model_document(BYTES["45mb"])
    with harness.platform() as platform, Clients(CLIENTS, document) as clients:
        job = driver.Job(platform, "bench-round", document, clients=CLIENTS, fan_in=FAN_IN)
        floor = Floor(CLIENTS, len(document) // 4 * 4, platform.paths.state)
        rounds, floors, passes, raw = [], [], [], []
        try:
            current = job.ready()
            plan = _plan(job)
            for i in range(N + WARM):
                done = _round(platform, job, clients, current)
                cost = floor.round(clients)
                if i >= WARM:
                    rounds.append(done)
                    floors.append(cost)
                    passes.append(_pass_seconds(BYTES["45mb"] // 4))
                    raw.append(_raw_loopback(clients, len(document)))
                current = job.ready(after=current["round"])
        finally:
            floor.close()
            job.stop()
    ingest = CLIENTS * statistics.median(raw) / statistics.median(c.receiving for c in floors)
    if ingest < 0.8:
        raise RuntimeError(f"the floor ingests at {ingest:.2f} of raw loopback, need 0.8")
    tail = [r.tail / p for r, p in zip(rounds, passes, strict=True)]
    levels = plan.levels
    return [
        Figure(
            "round_over_floor",
            "ratio",
            ratios([r.wall for r in rounds], [c.wall for c in floors]),
            at_most(2.5),
            {
                "round_ms": _ms(r.wall for r in rounds),
                "floor_ms": _ms(c.wall for c in floors),
                "floor_ingest_over_raw": round(ingest, 2),
            },
        ),
        Figure(
            "round_cpu_over_floor",
            "ratio",
            ratios([r.cpu for r in rounds], [c.cpu for c in floors]),
            at_most(3.0),
            {"cpu_ms": _ms(r.cpu for r in rounds), "floor_cpu_ms": _ms(c.cpu for c in floors)},
        ),
        Figure(
            "eager_tail_passes",
            "passes",
            tail,
            at_most(levels + 1.5),
            {
                "tail_ms": _ms(r.tail for r in rounds),
                "pass_ms": _ms(passes),
                "levels": levels,
                "tree": tree(plan),
            },
        ),
    ]


def _round(
    platform: harness.Platform, job: driver.Job, clients: Clients, current: dict[str, object]
) -> Round:
    requests = job.requests(current)
    version = int(str(current["version"])) + 1
    cpu, start = platform.cpu(), time.monotonic()
    clients.start(requests)
    sent = clients.wait()
    job.check(sent)
    end = job.wait_for_version(version)
    used = platform.cpu() - cpu
    sealed = mean_sealed(job)
    return Round(end - start, used, sealed - max(s.last_byte for s in sent))


def mean_sealed(job: driver.Job) -> float:
    """Return when the coordinator found the last mean sealed, in CLOCK_MONOTONIC seconds."""
    last = job.history()[-1]
    return float(last["summed"]) - (time.time() - time.monotonic())


def _plan(job: driver.Job) -> Plan:
    return Plan.from_json(job.view()["plan"])


def tree(plan: Plan) -> str:
    """Return a plan as a line: ``top(a(2) b(2))`` with goals."""

    def line(name: str) -> str:
        below = " ".join(line(child.name) for child in plan.children(name))
        role = plan.role(name)
        return f"{role.level.value}[{role.goal}]" + (f"({below})" if below else "")

    return line(plan.top.name)


def _pass_seconds(elements: int) -> float:
    """Return the seconds of one ``acc += w*x`` as aggregators do it.

    In mapped shared memory, which pools are, and never twice in a row over the same
    vectors, of which something would still be in cache.
    """
    kernel = best_kernel()
    fd = os.memfd_create("pass")
    try:
        os.ftruncate(fd, 16 * elements)
        memory = np.frombuffer(mmap.mmap(fd, 16 * elements), np.float32)
    finally:
        os.close(fd)
    memory[:] = 1
    x, acc, other, another = memory.reshape(4, elements)
    samples = []
    for _ in range(7):
        start = time.perf_counter()
        kernel.axpby(0.5, x, 1.0, acc)
        samples.append(time.perf_counter() - start)
        x, acc, other, another = other, another, x, acc
    return statistics.median(samples)


def _raw_loopback(clients: Clients, nbytes: int) -> float:
    """Return the seconds from a client's connect to its last byte in a warm buffer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        buffer = memoryview(np.ones(nbytes, np.uint8)).cast("B")
        clients.start([("127.0.0.1", listener.getsockname()[1], b"")])
        receive(listener, buffer)
        arrived = time.monotonic()
        return arrived - clients.wait()[0].started


def _ms(seconds: object) -> float:
    return round(statistics.median(list(seconds)) * 1e3, 2)  # type: ignore[call-overload]
