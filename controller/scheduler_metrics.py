"""What the scheduler counts, for Prometheus.

Why: apart, so that the scheduler knows names and not the library. It must not decide.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from controller.cluster.seats import AGGREGATOR, COORDINATOR, GATEWAY

_FUNCTIONS = frozenset({AGGREGATOR, COORDINATOR, GATEWAY})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class SchedulerMetrics:
    """Counters and histograms; safe for several threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._bound = Counter(
            "lifl_scheduler_bound", "Pods given their node", ["function"], registry=registry
        )
        self._refused = Counter(
            "lifl_scheduler_refused",
            "Reasons found why a pod cannot have a node (once for each new reason)",
            ["function"],
            registry=registry,
        )
        self._failed = Counter(
            "lifl_scheduler_failed", "Bindings that the API server did not make", registry=registry
        )
        self._binding = Histogram(
            "lifl_scheduler_binding_seconds",
            "Time of a binding at the API server",
            buckets=_SECONDS,
            registry=registry,
        )
        self._deciding = Histogram(
            "lifl_scheduler_deciding_seconds",
            "Time to decide on all pods that wait",
            buckets=_SECONDS,
            registry=registry,
        )

    def bound(self, function: str) -> None:
        """Count a pod that was bound."""
        self._bound.labels(_word(function)).inc()

    def refused(self, function: str) -> None:
        """Count a reason why a pod was not bound."""
        self._refused.labels(_word(function)).inc()

    def failed(self) -> None:
        """Count a binding that was not made."""
        self._failed.inc()

    def binding(self, seconds: float) -> None:
        """Note how long a binding took."""
        self._binding.observe(seconds)

    def deciding(self, seconds: float) -> None:
        """Note how long a decision took."""
        self._deciding.observe(seconds)


def _word(function: str) -> str:
    """Return a label of few values, whatever a pod's label says."""
    return function if function in _FUNCTIONS else "other"
