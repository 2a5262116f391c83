"""An update POSTed into a sealed object, over the same bytes sent and received raw.

From before the client connects until the slot's seal: token, claim, finite-value
check, digest, confirmation by the coordinator, seal; against one ``sendall`` into
one warm buffer. Client and receiver are separate processes on both sides, and
the two are measured in turn. When the client has its answer is noted beside it.
"""

from __future__ import annotations

import functools
import socket
import statistics
import time

import numpy as np

from bench import driver, harness
from bench.clients import Clients
from bench.figures import Figure, at_least, ratios
from bench.floor import receive
from bench.sizes import BYTES

CLIENTS = 4
ROUNDS = 9
WARM = 2
SETTLE_SECONDS = 0.01  # lets the leaf finish adding before the next pair is timed


def run() -> list[Figure]:
    """Return ``ingest_ratio_45mb``, ``_85mb`` and ``_233mb``."""
    with harness.platform() as platform:
        return [_figure(platform, label, size) for label, size in BYTES.items()]


def _figure(platform: harness.Platform, label: str, nbytes: int) -> Figure:
    document = harness.model_document(nbytes)
    name = f"ingest-{label}"
    job = driver.Job(platform, name, document, clients=CLIENTS, fan_in=CLIENTS, slots=10)
    pairs: list[tuple[float, float, float]] = []
    try:
        with (
            Clients(1, document) as client,
            socket.create_server(("127.0.0.1", 0)) as listener,
        ):
            current = job.ready()
            for _ in range(ROUNDS + WARM):
                *measured, last = job.requests(current)
                for request in measured:
                    posted = _post(job, client, request)
                    pairs.append((*posted, _raw(client, listener, document)))
                    time.sleep(SETTLE_SECONDS)
                client.start([last])  # ends the round, after which the slots are used again
                job.check(client.wait())
                current = job.ready(after=current["round"])
    finally:
        job.stop()
    sealed, answered, raw = zip(*pairs[WARM * (CLIENTS - 1) :], strict=True)
    notes = {
        "sealed_ms": _ms(sealed),
        "answered_ms": _ms(answered),
        "raw_ms": _ms(raw),
        "gb_per_s": round(len(document) / statistics.median(sealed) / 1e9, 2),
    }
    return Figure(f"ingest_ratio_{label}", "ratio", ratios(raw, sealed), at_least(0.8), notes)


def _post(job: driver.Job, client: Clients, request: tuple[str, int, bytes]) -> tuple[float, float]:
    """Return the seconds until the object was sealed, and until the client had its answer."""
    client.start([request])
    sent = client.wait()
    job.check(sent)
    sealed = job.update_sealed(sent[0])
    time.sleep(SETTLE_SECONDS)
    return sealed - sent[0].started, sent[0].answered - sent[0].started


def _ms(seconds: tuple[float, ...]) -> float:
    return round(statistics.median(seconds) * 1e3, 2)


def _raw(client: Clients, listener: socket.socket, document: bytes) -> float:
    buffer = _warm(len(document))
    client.start([("127.0.0.1", listener.getsockname()[1], b"")])
    receive(listener, buffer)
    arrived = time.monotonic()
    return arrived - client.wait()[0].started


@functools.cache
def _warm(nbytes: int) -> memoryview:
    return memoryview(np.ones(nbytes, np.uint8)).cast("B")
