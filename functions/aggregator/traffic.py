"""How many requests this aggregator works on, second by second, as Knative's autoscaler asks it.

Why: without queue-proxy nobody else counts. The figures are queue-proxy's: averages over
the last full second, since the autoscaler averages over time itself and asks each pod
about once a second. A second ends when somebody looks, so no thread ticks.

The message is ``Stat`` of knative/serving, pkg/autoscaler/metrics/stat.proto, encoded by
hand: six fields do not need a library. It must not know HTTP.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 1_000_000_000
"""Nanoseconds, Knative's reportingPeriod. Whole numbers add up without a rest."""
_DOUBLE, _BYTES = 1, 2  # wire types: 64 bits, and a length with so many bytes


@dataclass(frozen=True, slots=True)
class Stat:
    """The load of one pod; concurrency is an average over the window, counts are per second."""

    pod_name: str
    concurrency: float = 0.0
    proxied_concurrency: float = 0.0
    requests: float = 0.0
    proxied_requests: float = 0.0
    uptime: float = 0.0

    def encode(self) -> bytes:
        """Return the protobuf message; fields that are zero are left out, as proto3 wants it."""
        name = self.pod_name.encode()
        parts = [bytes([1 << 3 | _BYTES]), _varint(len(name)), name] if name else []
        values = (
            self.concurrency,
            self.proxied_concurrency,
            self.requests,
            self.proxied_requests,
            self.uptime,
        )
        parts += [
            bytes([number << 3 | _DOUBLE]) + struct.pack("<d", value)
            for number, value in enumerate(values, 2)
            if value
        ]
        return b"".join(parts)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Traffic:
    """Counts requests; for several threads.

    A request *waits* from its connection's turn on until a thread takes it, and is
    *inside* until its answer is out. Both count as concurrent, as they would in
    queue-proxy, which sees a request before this process does. Whether one that waits
    came through the activator is not known before it is read: those who wait are taken
    to be what those inside are.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started = self._last = clock()
        self._end = self._started + WINDOW
        self._waiting = self._inside = self._proxied = 0
        self._sums = [0, 0, 0]  # requests times nanoseconds: waiting, inside, proxied
        self._counts = [0, 0]  # requests, of them proxied
        self._report: tuple[float, float, float, float] = (0, 0, 0, 0)

    def wait(self) -> None:
        """Note that a request waits for a thread."""
        with self._lock:
            self._advance()
            self._waiting += 1

    def taken(self) -> None:
        """Note that one that waited has its thread."""
        with self._lock:
            self._advance()
            self._waiting -= 1

    def enter(self, proxied: bool) -> None:
        """Note that a request begins; ``proxied``: it came through the activator."""
        with self._lock:
            self._advance()
            self._inside += 1
            self._counts[0] += 1
            if proxied:
                self._proxied += 1
                self._counts[1] += 1

    def leave(self, proxied: bool) -> None:
        """Note that its answer is out."""
        with self._lock:
            self._advance()
            self._inside -= 1
            if proxied:
                self._proxied -= 1

    def stat(self, pod_name: str) -> Stat:
        """Return the figures of the last full second; zeros in the first."""
        with self._lock:
            now = self._advance()
            return Stat(pod_name, *self._report, uptime=(now - self._started) / WINDOW)

    def _advance(self) -> int:
        """Add up what passed since the last event; return now."""
        now = self._clock()
        if now >= self._end:
            self._add(self._end)
            self._close()
            idle = (now - self._end) // WINDOW + 1
            if idle:  # seconds in which nothing changed: the last of them counts
                self._end += (idle - 1) * WINDOW
                self._last = self._end - WINDOW
                self._add(self._end)
                self._close()
        self._add(now)
        return now

    def _add(self, until: int) -> None:
        passed = until - self._last
        if passed > 0:
            self._last = until
            self._sums[0] += self._waiting * passed
            self._sums[1] += self._inside * passed
            self._sums[2] += self._proxied * passed

    def _close(self) -> None:
        """Make the window that ends the report, and begin the next."""
        waiting, inside, proxied = (s / WINDOW for s in self._sums)
        share = proxied / inside if inside else 0.0
        requests, through = self._counts
        self._report = (inside + waiting, proxied + waiting * share, requests, through)
        self._sums = [0, 0, 0]
        self._counts = [0, 0]
        self._end += WINDOW
