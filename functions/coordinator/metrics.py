"""What Prometheus is told.

Why: the figures are read from the jobs when asked for, so that nothing on the
hot path keeps them; only durations are measured as they happen. It must not
change anything.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from functions.coordinator.problems import Refused
from functions.coordinator.records import JobState, Phase, RoundRecord
from functions.coordinator.service import Coordinator

BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0)
_GAUGES = {
    "round": "The round a job is in",
    "version": "The version of a job's present model",
    "kept": "Whether the present model is on the disk (see LIFL_CHECKPOINT_BEHIND)",
    "attempt": "The attempt of the present round",
    "goal": "Updates that close the present round",
    "accepted": "Accepted updates of the present round",
    "uploading": "Updates being uploaded",
    "lost": "Clients that are asked again, since their update's data went",
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
        statuses = self._coordinator.jobs.statuses()
        for key, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"lifl_job_{key}", text, labels=["job"])
            for status in statuses:
                if key in status:
                    gauge.add_metric([status["job"]], float(status[key]))
            yield gauge
        counts = Counter(status["state"] for status in statuses)
        states = GaugeMetricFamily("lifl_jobs", "Jobs by state", labels=["state"])
        for state in JobState:
            if state is not JobState.DELETED:
                states.add_metric([state], float(counts[state]))
        yield states
        registered = GaugeMetricFamily(
            "lifl_job_registered", "Whether the job's data thread is registered", labels=["job"]
        )
        commit = GaugeMetricFamily(
            "lifl_job_commit_seconds", "How long the last version took to make", labels=["job"]
        )
        phase = GaugeMetricFamily(
            "lifl_job_phase_seconds",
            "How long the present round has been in its phase; none once the job is over",
            labels=["job", "phase"],
        )
        now = time.time()
        for name, engine in list(self._coordinator.jobs.engines.items()):
            registered.add_metric([name], float(engine.registered))
            commit.add_metric([name], engine.commit_seconds)
            with contextlib.suppress(Refused):  # it was deleted meanwhile
                record = self._coordinator.jobs.get(name).rounds.record
                if not record.phase.over:
                    phase.add_metric([name, record.phase], max(0.0, now - _since(record)))
        yield registered
        yield commit
        yield phase
        watches = GaugeMetricFamily("lifl_coordinator_watches", "Watches that are parked")
        watches.add_metric([], float(self._coordinator.revisions.waiting))
        yield watches
        nodes = GaugeMetricFamily("lifl_nodes", "Nodes whose gateway reports")
        nodes.add_metric([], float(len(self._coordinator.nodes.urls())))
        yield nodes


def _since(record: RoundRecord) -> float:
    """Return when the round's phase began (unix time); of committing, when the round closed."""
    began = {Phase.PLANNING: record.since, Phase.OPEN: record.opened}
    return began.get(record.phase, record.closed) or record.since
