"""An update POSTed into a sealed object, over the same bytes sent and received raw.

The whole way in: token, claim, finite-value check, digest, confirmation, seal,
answer; against one ``sendall`` into one warm buffer. Client and receiver are
separate processes on both sides, and the two are measured in turn.
"""

from __future__ import annotations

import functools
import socket
import statistics
import time

import numpy as np

from bench import harness
from bench.clients import Clients
from bench.figures import Figure, at_least, ratios
from bench.floor import receive
from bench.sizes import BYTES

CLIENTS = 2
ROUNDS = 9
WARM = 2
SETTLE_SECONDS = 0.05  # lets the leaf finish adding before the next pair is timed


def run() -> list[Figure]:
    """Return ``ingest_ratio_45mb``, ``_85mb`` and ``_233mb``."""
    with harness.platform() as platform:
        return [_figure(platform, label, size) for label, size in BYTES.items()]


def _figure(platform: harness.Platform, label: str, nbytes: int) -> Figure:
    document = harness.model_document(nbytes)
    job = harness.Job(platform, f"ingest-{label}", document, clients=CLIENTS, slots=8)
    pairs: list[tuple[float, float]] = []
    try:
        with (
            Clients(1, document) as client,
            socket.create_server(("127.0.0.1", 0)) as listener,
        ):
            current = job.ready()
            for _ in range(ROUNDS + WARM):
                for request in job.requests(current):
                    pairs.append((_post(job, client, request), _raw(client, listener, document)))
                    time.sleep(SETTLE_SECONDS)
                current = job.ready(after=current["round"])
    finally:
        job.stop()
    posted, raw = zip(*pairs[WARM * CLIENTS :], strict=True)
    post = statistics.median(posted)
    notes = {
        "post_ms": round(post * 1e3, 2),
        "raw_ms": round(statistics.median(raw) * 1e3, 2),
        "gb_per_s": round(len(document) / post / 1e9, 2),
    }
    return Figure(f"ingest_ratio_{label}", "ratio", ratios(raw, posted), at_least(0.8), notes)


def _post(job: harness.Job, client: Clients, request: tuple[str, int, bytes]) -> float:
    client.start([request])
    sent = client.wait()
    job.check(sent)
    time.sleep(SETTLE_SECONDS)
    return sent[0].answered - sent[0].started


def _raw(client: Clients, listener: socket.socket, document: bytes) -> float:
    buffer = _warm(len(document))
    client.start([("127.0.0.1", listener.getsockname()[1], b"")])
    receive(listener, buffer)
    arrived = time.monotonic()
    return arrived - client.wait()[0].started


@functools.cache
def _warm(nbytes: int) -> memoryview:
    return memoryview(np.ones(nbytes, np.uint8)).cast("B")
