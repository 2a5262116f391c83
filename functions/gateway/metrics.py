"""What the gateway counts, for Prometheus.

Why: a registry of its own, so that two gateways in one test process do not mix.
It must not count per client: names of clients are unbounded.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The gateway's counters; ``parked`` is asked at each scrape."""

    def __init__(self, parked: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.uploads = Counter(
            "lifl_gateway_uploads_total",
            "Updates by outcome: accepted, duplicate, or the problem's code",
            ["result"],
            registry=self.registry,
        )
        self.bytes = Counter(
            "lifl_gateway_upload_bytes_total", "Bytes of bodies read", registry=self.registry
        )
        self.seconds = Histogram(
            "lifl_gateway_upload_seconds",
            "Time from headers to answer of accepted updates",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "lifl_gateway_uploads_in_flight", "Uploads being received", registry=self.registry
        )
        self.transfers = Counter(
            "lifl_gateway_transfers_total",
            "Partial sums received from other nodes",
            registry=self.registry,
        )
        Gauge(
            "lifl_gateway_polls_parked", "Long polls waiting", registry=self.registry
        ).set_function(parked)

    def scrape(self) -> bytes:
        """Return the text format."""
        return generate_latest(self.registry)
