"""Prometheus metrics, from what the agent answers on its admin socket.

Why: the event loop is the only thread that may look at pools and functions, so
a scrape asks it like any other client. It must not share state with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lifl.dataplane.admin import AgentAdmin

_ENDPOINT = ["job", "name", "kind", "endpoint"]
_COUNTERS = {
    "tx_messages": "Descriptors sent.",
    "tx_bytes": "Bytes of the objects named by descriptors sent.",
    "rx_messages": "Descriptors received.",
    "rx_bytes": "Bytes of the objects named by descriptors received.",
}
_EVENTS = {
    "registrations": "Functions that registered.",
    "resumptions": "Functions that came back after a lost connection.",
    "refusals": "Registrations refused.",
    "recoveries": "Functions whose leases were taken back.",
    "redispatches": "Descriptors the agent sent for sealed objects.",
    "flushes": "Flushes sent to aggregators.",
    "fences": "Functions given up while their process lived.",
    "kills": "Processes killed for holding a pool's table.",
    "discards": "Objects of ended assignments thrown away.",
    "damages": "Pools given up because a function of their job ruined them.",
}


class AgentCollector(Collector):
    """Asks the agent at each scrape."""

    def __init__(self, admin: AgentAdmin) -> None:
        self._admin = admin

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; raises Unavailable when the agent does not answer."""
        yield from self._endpoints()
        yield from self._pools()
        counters = self._admin.counters()
        drops = CounterMetricFamily(
            "lifl_drops", "Descriptors not delivered, by reason.", labels=["reason"]
        )
        for reason, n in counters["drops"].items():
            drops.add_metric([reason], n)
        yield drops
        for event, text in _EVENTS.items():
            yield CounterMetricFamily(
                f"lifl_agent_{event}", text, value=counters["events"].get(event, 0)
            )

    def _endpoints(self) -> Iterator[Metric]:
        endpoints = self._admin.endpoints()
        arrival = GaugeMetricFamily(
            "lifl_endpoint_last_arrival_seconds",
            "CLOCK_MONOTONIC of the last arrival, 0 before the first.",
            labels=_ENDPOINT,
        )
        ready = GaugeMetricFamily(
            "lifl_endpoint_ready", "Whether the function takes descriptors.", labels=_ENDPOINT
        )
        families = {
            name: CounterMetricFamily(f"lifl_endpoint_{name}", text, labels=_ENDPOINT)
            for name, text in _COUNTERS.items()
        }
        for e in endpoints:
            labels = [e["domain"], e["name"], e["kind"], str(e["endpoint"])]
            ready.add_metric(labels, e["ready"])
            arrival.add_metric(labels, e["counters"]["last_arrival_ns"] / 1e9)
            for name, family in families.items():
                family.add_metric(labels, e["counters"][name])
        yield ready
        yield arrival
        yield from families.values()

    def _pools(self) -> Iterator[Metric]:
        slots = GaugeMetricFamily(
            "lifl_pool_slots", "Slots of a job's pool, by state.", labels=["job", "state"]
        )
        peak = GaugeMetricFamily(
            "lifl_pool_peak_slots", "Most slots in use at once.", labels=["job"]
        )
        reserved = GaugeMetricFamily(
            "lifl_pool_reserved_slots",
            "Free slots that uploads leave to aggregators.",
            labels=["job"],
        )
        for job, usage in self._admin.pools().items():
            for state in ("free", "writing", "sealed", "taken", "retired"):
                slots.add_metric([job, state], getattr(usage, state))
            peak.add_metric([job], usage.peak_in_use)
            reserved.add_metric([job], usage.kept)
        yield slots
        yield peak
        yield reserved


def registry(admin: AgentAdmin) -> CollectorRegistry:
    """Return a registry of the agent's metrics alone."""
    # Not registered by the constructor: that would ask the agent, which does not serve yet.
    made = CollectorRegistry(auto_describe=False)
    made.register(AgentCollector(admin))
    return made
