"""An update POSTed into a sealed object, over the same bytes sent and received raw.

The whole way in: token, claim, finite-value check, digest, confirmation, seal,
answer; against one ``sendall`` into one warm buffer. Client and receiver are
separate processes on both sides, and the two are measured in turn.
"""

from __future__ import annotations

import socket
import time

import numpy as np

from bench import harness
from bench.clients import Clients
from bench.figures import Figure, at_least, ratios
from bench.floor import receive
from bench.sizes import BYTES

CLIENTS = 20
WARM = 4
SETTLE_SECONDS = 0.05  # lets the leaf finish adding before the next pair is timed


def run() -> list[Figure]:
    """Return ``ingest_ratio_45mb``, ``_85mb`` and ``_233mb``."""
    with harness.platform() as platform:
        return [_figure(platform, label, size) for label, size in BYTES.items()]


def _figure(platform: harness.Platform, label: str, nbytes: int) -> Figure:
    document = harness.model_document(nbytes)
    job = harness.Job(
        platform, f"ingest-{label}", document, clients=CLIENTS, fan_in=CLIENTS, slots=8
    )
    posted, raw = [], []
    buffer = memoryview(np.ones(len(document), np.uint8)).cast("B")
    try:
        current = job.ready()
        with (
            Clients(1, document) as client,
            socket.create_server(("127.0.0.1", 0)) as listener,
        ):
            port = listener.getsockname()[1]
            for i, request in enumerate(job.requests(current)[:-1]):
                client.start([request])
                sent = client.wait()
                job.check(sent)
                time.sleep(SETTLE_SECONDS)
                client.start([("127.0.0.1", port, b"")])
                start = time.monotonic()
                receive(listener, buffer)
                arrived = time.monotonic()
                began = client.wait()[0].started
                time.sleep(SETTLE_SECONDS)
                if i >= WARM:
                    posted.append(sent[0].answered - sent[0].started)
                    raw.append(arrived - max(start, began))
    finally:
        job.stop()
    middle = len(posted) // 2
    notes = {
        "post_ms": round(sorted(posted)[middle] * 1e3, 2),
        "raw_ms": round(sorted(raw)[middle] * 1e3, 2),
        "gb_per_s": round(len(document) / sorted(posted)[middle] / 1e9, 2),
    }
    return Figure(f"ingest_ratio_{label}", "ratio", ratios(raw, posted), at_least(0.8), notes)
