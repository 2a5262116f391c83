"""What the autoscaler counts, for Prometheus.

Why: apart, so that the autoscaler knows names and not the library. It must not decide.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

UP, DOWN = "up", "down"


class AutoscalerMetrics:
    """Gauges and counters; for one thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        names = ["namespace", "deployment"]
        self._desired = Gauge(
            "lifl_autoscaler_desired", "Pods that there should be", names, registry=registry
        )
        self._ready = Gauge(
            "lifl_autoscaler_ready", "Pods that are ready", names, registry=registry
        )
        self._scaled = Counter(
            "lifl_autoscaler_scaled",
            "Changes of the number of pods",
            [*names, "direction"],
            registry=registry,
        )
        self._seats = Gauge(
            "lifl_autoscaler_seats",
            "Seats of plans: wanted, and without a pod",
            ["state"],
            registry=registry,
        )
        self._given_up = Counter(
            "lifl_autoscaler_seats_given_up",
            "Seats that had no ready pod for too long",
            registry=registry,
        )
        self._failed = Counter(
            "lifl_autoscaler_failed", "Requests that the API server refused", registry=registry
        )
        self._known: set[tuple[str, str]] = set()

    def looked(self, pods: Iterable[tuple[str, str, int, int]], wanted: int, waiting: int) -> None:
        """Note namespace, name, desired and ready pods of each Deployment, and the seats."""
        seen = set()
        for namespace, name, desired, ready in pods:
            seen.add((namespace, name))
            self._desired.labels(namespace, name).set(desired)
            self._ready.labels(namespace, name).set(ready)
        for gone in self._known - seen:
            self._desired.remove(*gone)
            self._ready.remove(*gone)
        self._known = seen
        self._seats.labels("wanted").set(wanted)
        self._seats.labels("waiting").set(waiting)

    def scaled(self, namespace: str, name: str, direction: str) -> None:
        """Count a change of a Deployment's replicas."""
        self._scaled.labels(namespace, name, direction).inc()

    def given_up(self, count: int) -> None:
        """Count seats that were given up."""
        self._given_up.inc(count)

    def failed(self) -> None:
        """Count a request that was refused."""
        self._failed.inc()
