"""What the webhook counts, for Prometheus.

Why: apart, so that the webhook knows names and not the library. It must not decide.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class WebhookMetrics:
    """Counters and a histogram; safe for several threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._admissions = Counter(
            "lifl_webhook_admissions",
            "Pods that the API server asked about: patched, unchanged, refused, failed (by a "
            "fault of the webhook) or malformed (no review at all)",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("patched", "unchanged", "refused", "failed", "malformed"):
            self._admissions.labels(outcome)
        self._handshakes = Counter(
            "lifl_webhook_broken_connections",
            "Connections that broke, were too slow, or did not agree on TLS",
            registry=registry,
        )
        self._seconds = Histogram(
            "lifl_webhook_seconds",
            "Time from a review's first byte to its answer",
            buckets=_SECONDS,
            registry=registry,
        )

    def answered(self, outcome: str, seconds: float) -> None:
        """Count an answer."""
        self._admissions.labels(outcome).inc()
        self._seconds.observe(seconds)

    def broken(self) -> None:
        """Count a connection without an answer."""
        self._handshakes.inc()
