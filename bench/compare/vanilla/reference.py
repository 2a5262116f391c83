"""How fast the broker's path is here, beside what is published for it.

Why: a ratio over a slow baseline is void. As there: from just before the send to the floats
standing in the function's memory for one hop, and from a common start to the sum for eight
senders at once. The function only adds (:mod:`.adder`).
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Sequence

from bench.clients import Clients, head
from bench.compare.api import Group, Reference
from bench.compare.vanilla import event
from bench.compare.vanilla.broker import APP, Broker
from bench.sizes import BYTES

SENDERS = 8
HOP, EIGHT = statistics.mean((0.141, 0.154)), statistics.mean((0.970, 1.029))
"""Published seconds of 44.8 MB and of eight of them, the mean of both passes."""
TIMES, WARM = 9, 4
"""As many as were published, of one hop and of eight: the first find Redis without its memory."""
HELD = 4
"""Redis may hold so many times what is sent at once."""


def measure(group: Group, nbytes: int = BYTES["45mb"]) -> list[Reference]:
    """Return both references for payloads of ``nbytes``; raises RuntimeError if one is lost."""
    payload = bytes(nbytes)
    with (
        Clients(SENDERS, payload) as clients,
        Broker(group, [event.TOP], HELD * SENDERS * nbytes, app=APP, tell=True) as broker,
    ):
        hops = [_send(clients, broker, nbytes, 1)[0] for _ in range(TIMES + WARM)][WARM:]
        eight = [_send(clients, broker, nbytes, SENDERS)[1] for _ in range(TIMES + WARM)][WARM:]
    return [
        Reference(
            "c: Redis Streams and a sidecar, 44.8 MB",
            nbytes / 1e6 / statistics.median(hops),
            BYTES["45mb"] / 1e6 / HOP,
        ),
        Reference(
            "c: 8 senders to one aggregator, 44.8 MB each",
            SENDERS * nbytes / 1e6 / statistics.median(eight),
            SENDERS * BYTES["45mb"] / 1e6 / EIGHT,
        ),
    ]


def _send(clients: Clients, broker: Broker, nbytes: int, number: int) -> tuple[float, float]:
    """Return seconds from the first send until the last payload was readable, and was added."""
    about = {
        "ce-specversion": "1.0",
        "ce-source": "/clients",
        "ce-type": event.PARTIAL,
        "ce-subject": str(event.Subject(1, number, 0, 0)),
    }
    requests: Sequence[tuple[str, int, bytes]] = [
        (
            "127.0.0.1",
            broker.port,
            head("127.0.0.1", broker.port, "/", nbytes, about | {"ce-id": str(uuid.uuid4())}),
        )
        for _ in range(number)
    ]
    start = time.monotonic()
    clients.start(list(requests))
    sent = clients.wait()
    if any(s.status != 202 for s in sent):
        raise RuntimeError(f"the ingress answered {[s.status for s in sent]}")
    heard = [broker.dispatcher.hear()["headers"] for _ in range(number)]
    begun = min(s.started for s in sent) if number == 1 else start
    viewed, added = (max(float(h[f"lifl-{what}"]) for h in heard) for what in ("viewed", "added"))
    return viewed - begun, added - begun
