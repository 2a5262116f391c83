"""What Prometheus is told.

Why: the figures are read from the jobs when asked for, so that nothing on the
hot path keeps them; only durations are measured as they happen. It must not
change anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from functions.coordinator.service import Coordinator

BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0)
_GAUGES = {
    "round": "The round a job is in",
    "version": "The version of a job's present model",
    "attempt": "The attempt of the present round",
    "goal": "Updates that close the present round",
    "accepted": "Accepted updates of the present round",
    "uploading": "Updates being uploaded",
    "known_clients": "Clients that were ever seen",
}


class Metrics:
    """One registry per application."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "lifl_coordinator_request_seconds",
            "Time to answer internal requests, watches left out",
            ["endpoint", "status"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Jobs(coordinator))


class _Jobs(Collector):
    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges as of now."""
        statuses = self._coordinator.list_jobs()
        for key, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"lifl_job_{key}", text, labels=["job"])
            for status in statuses:
                if key in status:
                    gauge.add_metric([status["job"]], float(status[key]))
            yield gauge
        registered = GaugeMetricFamily(
            "lifl_job_registered", "Whether the job's data thread is registered", labels=["job"]
        )
        commit = GaugeMetricFamily(
            "lifl_job_commit_seconds", "How long the last version took to make", labels=["job"]
        )
        for name, engine in list(self._coordinator.engines.items()):
            registered.add_metric([name], float(engine.registered))
            commit.add_metric([name], engine.commit_seconds)
        yield registered
        yield commit
        watches = GaugeMetricFamily("lifl_coordinator_watches", "Watches that are parked")
        watches.add_metric([], float(self._coordinator.revisions.waiting))
        yield watches
        nodes = GaugeMetricFamily("lifl_nodes", "Nodes whose gateway reports")
        nodes.add_metric([], float(len(self._coordinator.nodes.urls())))
        yield nodes
