"""An aggregator's figures in Prometheus' form.

Why: the counting happens in plain integers of the data-plane thread; they are read
when somebody asks. It must not count anything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from functions.aggregator.stats import Stats


class AggregatorMetrics(Collector):
    """Reads ``stats`` and asks ``open_sums`` at each scrape."""

    def __init__(self, stats: Stats, open_sums: Callable[[], int]) -> None:
        self._stats = stats
        self._open_sums = open_sums

    def collect(self) -> Iterable[Metric]:
        """Return the metric families."""
        s = self._stats
        for name, text, value in (
            ("objects_added", "Updates and partials added", s.objects),
            ("bytes_added", "Bytes of the documents added", s.bytes),
            ("add_seconds", "Seconds spent adding", s.seconds),
            ("updates_added", "Client updates among the objects added", s.updates),
            (
                "update_wait_seconds",
                "Seconds from seal to sum, over all client updates added",
                s.waited_ns / 1e9,
            ),
            ("partials_sealed", "Outputs sealed", s.partials),
            ("fenced", "Sums voided because their leases were taken back", s.fenced),
            ("refused", "Objects put back because they cannot be used", s.refused),
            ("no_room", "Times the pool had no slot for an output", s.no_room),
            ("not_delivered", "Sealed outputs left to be sent again", s.not_delivered),
        ):
            yield CounterMetricFamily(f"lifl_aggregator_{name}", text, value=value)
        yield GaugeMetricFamily(
            "lifl_aggregator_open_accumulators",
            "Sums of which something is held",
            value=self._open_sums(),
        )
