"""How fast one hop over the always-on side's own code is, beside what is published for the path.

Why: a ratio over a slow baseline is void. One client sends one document of 44.8 MB to one
aggregator, from just before the send to the floats standing in the aggregator's memory (there: a
copy of the bytes; here: added to the sum, which is as much traffic).
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench.compare.api import Group, Reference
from bench.compare.crew import Crew
from bench.compare.serverful import protocol
from bench.harness import model_document
from bench.sizes import BYTES

PUBLISHED = 44.8 / 0.042
"""MB/s: gRPC stream, 1 MB messages, bytes; 44.8 MB in 42 ms."""
PATH = "gRPC stream, 1 MB, bytes"
SENDS, WARM = 13, 4
BATCHES = 3


def measure(group: Group, nbytes: int = BYTES["45mb"]) -> Reference:
    """Return the median of nine hops of ``nbytes`` after four to warm up.

    It asks what the path can do, and what others do on the machine only slows it; so a median
    that is too slow is taken again, three times at most, and the best one counts.
    """
    document = model_document(nbytes)
    header, floats = protocol.split(document)
    with group.adopt():
        servers = Crew(
            "bench.compare.serverful.aggregator", 1, protocol.describe(header, len(floats))
        )
    with servers, Crew("bench.compare.serverful.client", 1, document) as clients:
        (client,) = clients.wires
        address = f"127.0.0.1:{servers.wires[0].hear()['port']}"

        def ask(do: str, **what: Any) -> dict[str, Any]:
            client.tell(do=do, address=address, **what)
            return client.hear()

        ask("connect")

        def hop(number: int) -> float:
            ask("open", round_=number, goal=1, parent="")
            sent = ask("send", at=time.monotonic(), round_=number, samples=1.0)
            ask("model", version=number, ranges=[])
            return float(sent["summed"] - sent["started"])

        best = Reference(PATH, 0.0, PUBLISHED)
        for batch in range(BATCHES):
            seconds = [hop(1 + batch * SENDS + i) for i in range(SENDS)]
            rate = len(document) / 1e6 / statistics.median(seconds[WARM:])
            best = max(best, Reference(PATH, rate, PUBLISHED), key=lambda r: r.measured)
            if best.holds:
                break
    return best
