"""500 clients at 1 MB/s with 4 MB updates at once on one gateway, and a fast one meanwhile.

The slow clients are the client SDK, retries included, in threads of a few
processes; the kernel paces their sockets (SO_MAX_PACING_RATE), so nothing sleeps
for them. They would be on other machines, so they get this one's processors only
when nobody else wants them (nice 19). Each wave is one round of their job. The
fast client posts 45 MB updates of another job, first alone, then again and
again while at least 200 slow uploads are in flight.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing as mp
import os
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import urllib3.util.connection

from bench import driver, harness
from bench.clients import Clients
from bench.figures import Figure, at_least, ratios
from bench.sizes import BYTES
from lifl.client import FederatedClient
from lifl.client.http import HttpClient

CLIENTS = 500
PROCESSES = 5
UPDATE_BYTES = 4_000_000
RATE = 1_000_000  # bytes per second
SLOTS = 420
WAVES = 7
LIMIT_SECONDS = 60.0
CROWDED = 200
FAST_POSTS = 5
SO_MAX_PACING_RATE = 47


class Wave(NamedTuple):
    """What one wave saw; throughputs in bytes per second."""

    accepted: int
    in_flight: int
    seconds: float
    alone: float
    meanwhile: float


def run() -> list[Figure]:
    """Return ``slow_clients_accepted``, ``slow_clients_in_flight`` and ``fast_client_ratio``."""
    document = harness.model_document(UPDATE_BYTES)
    fast_document = harness.model_document(BYTES["45mb"])
    with harness.platform() as platform, Clients(1, fast_document) as sender:
        slow = driver.Job(platform, "slow", document, clients=CLIENTS, fan_in=2, slots=SLOTS)
        fast = driver.Job(platform, "fast", fast_document, clients=1, slots=8)
        idle = platform.private_bytes()
        with _SlowClients(slow) as crowd:
            waves = [_wave(slow, fast, sender, crowd) for _ in range(WAVES)]
        usage = platform.admin().pools()["slow"]
        grown = platform.private_bytes() - idle
        slow.stop()
        fast.stop()
    memory = {
        "pool_slots": usage.slots,
        "peak_slots": usage.peak_in_use,
        "private_grown_mb": round(grown / 1e6),
        "wave_seconds": round(statistics.median(w.seconds for w in waves), 1),
    }
    return [
        Figure(
            "slow_clients_accepted",
            "clients",
            [w.accepted for w in waves],
            at_least(CLIENTS),
            memory,
        ),
        Figure("slow_clients_in_flight", "clients", [w.in_flight for w in waves], at_least(200)),
        Figure(
            "fast_client_ratio",
            "ratio",
            ratios([w.meanwhile for w in waves], [w.alone for w in waves]),
            at_least(0.5),
            {"alone_gb_per_s": round(statistics.median(w.alone for w in waves) / 1e9, 2)},
        ),
    ]


def _wave(slow: driver.Job, fast: driver.Job, sender: Clients, crowd: _SlowClients) -> Wave:
    alone = _fast(fast, sender)
    crowd.release()
    start = time.monotonic()
    gateway = HttpClient(f"http://{slow.gateway.netloc}")
    most, meanwhile = 0, []
    while crowd.accepted < CLIENTS and time.monotonic() - start < LIMIT_SECONDS:
        present = _in_flight(gateway)
        most = max(most, present)
        if present >= CROWDED:
            meanwhile.append(_post(fast, sender))
        time.sleep(0.02)
    gateway.close()
    seconds, accepted = time.monotonic() - start, crowd.accepted
    crowd.finish()
    return Wave(accepted, most, seconds, alone, statistics.median(meanwhile))


def _fast(job: driver.Job, sender: Clients) -> float:
    return statistics.median(_post(job, sender) for _ in range(FAST_POSTS))


def _post(job: driver.Job, sender: Clients) -> float:
    """Post one update of the fast job's present round; return bytes per second."""
    current = job.ready(after=job.posted_round)
    sender.start(job.requests(current))
    [sent] = sender.wait()
    job.check([sent])
    job.posted_round = current["round"]
    return job.nbytes / (sent.answered - sent.started)


def _in_flight(gateway: HttpClient) -> int:
    text = gateway.request("GET", "/metrics").data.decode()
    found = re.search(r"^lifl_gateway_uploads_in_flight(?:{[^}]*})? ([0-9.e+]+)$", text, re.M)
    return int(float(found.group(1))) if found else 0


class _SlowClients:
    """The crowd: SDK clients in threads, started together once a round."""

    def __init__(self, job: driver.Job) -> None:
        context = mp.get_context("fork")
        self._go = [context.Semaphore(0) for _ in range(PROCESSES)]
        self._count = context.Value("i", 0)
        self._left = context.Value("i", 0)
        share = [job.clients[i::PROCESSES] for i in range(PROCESSES)]
        self._processes = [
            context.Process(
                target=_crowd, args=(job, names, go, self._count, self._left), daemon=True
            )
            for names, go in zip(share, self._go, strict=True)
        ]
        for process in self._processes:
            process.start()

    def __enter__(self) -> _SlowClients:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    @property
    def accepted(self) -> int:
        """How many updates of this wave were accepted."""
        return int(self._count.value)

    def release(self) -> None:
        """Let everybody submit the present round."""
        self._count.value = 0
        self._left.value = CLIENTS
        for go in self._go:
            for _ in range(CLIENTS // PROCESSES):
                go.release()

    def finish(self) -> None:
        """Wait until every client has had its answer."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self._left.value > 0 and time.monotonic() < deadline:
            time.sleep(0.02)


def _pace_connections() -> None:
    """Have every connection that urllib3 opens in this process send at RATE."""
    connect = urllib3.util.connection.create_connection

    def paced(*args: Any, **kwargs: Any) -> socket.socket:
        sock = connect(*args, **kwargs)
        sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, RATE)
        return sock

    urllib3.util.connection.create_connection = paced


def _crowd(job: driver.Job, names: list[str], go, count, left) -> None:  # type: ignore[no-untyped-def]
    """Run this process's share of the clients."""
    os.nice(19)
    _pace_connections()
    arrays: dict[str, np.ndarray] = {}
    lock = threading.Lock()

    def arrays_of(fetch: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        with lock:  # every client of this process sends the same arrays
            if not arrays:
                arrays.update({k: v.copy() for k, v in fetch().items()})
            return arrays

    def client(name: str) -> None:
        url = f"http://{job.gateway.netloc}"
        with FederatedClient(url, job=job.name, client=name, token=job.tokens[name]) as fl:
            for current in fl.rounds():
                model = arrays_of(current.model)
                go.acquire()
                receipt = current.submit(model, num_samples=10)
                with count.get_lock():
                    count.value += int(receipt.accepted)
                with left.get_lock():
                    left.value -= 1

    threads = [threading.Thread(target=functools.partial(client, n), daemon=True) for n in names]
    for thread in threads:
        thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        for thread in threads:
            thread.join()
