"""What the controller's loop, and each of its processes, count for Prometheus.

Why: apart, so that the loop knows names and not the library. It must not decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from controller.view import JobView, NodeView

DONE, REFUSED, LATER = "done", "refused", "later"
"""How an action ended: done, refused for good, or to be tried again at the next look."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class LoopMetrics:
    """The leader's loop; for one thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._look = Histogram(
            "lifl_controller_look_seconds",
            "Time to look at everything once, decide, and do what is to be done",
            buckets=_SECONDS,
            registry=registry,
        )
        self._actions = Counter(
            "lifl_controller_actions",
            "Actions by kind, and how they ended: done, refused, later",
            ["kind", "outcome"],
            registry=registry,
        )
        self._ended = Counter(
            "lifl_controller_aggregators_ended",
            "Aggregators that ended, or never came, although they were wanted",
            registry=registry,
        )
        self._plans = {
            "nodes": _by_job("lifl_plan_nodes", "Nodes of a job's plan", registry),
            "aggregators": _by_job("lifl_plan_aggregators", "Aggregators of it", registry),
            "levels": _by_job("lifl_plan_levels", "Levels of its hierarchy", registry),
        }
        self._nodes = {
            "answers": _by_node(
                "lifl_node_agent_answers",
                "Whether the agent of a node whose gateway reports answers the controller",
                registry,
            ),
            "load": _by_node(
                "lifl_node_load_updates", "Smoothed number of updates in service", registry
            ),
            "capacity": _by_node(
                "lifl_node_capacity_updates", "Updates that placement puts on a node", registry
            ),
        }
        self._known: dict[str, set[str]] = {"job": set(), "node": set()}

    def acted(self, kind: str, outcome: str) -> None:
        """Count an action of class ``kind``; ``outcome`` is DONE, REFUSED or LATER."""
        self._actions.labels(kind, outcome).inc()

    def ended(self) -> None:
        """Count an aggregator that is not there any more although it was started."""
        self._ended.inc()

    def looked(
        self, seconds: float, jobs: Iterable[JobView], nodes: Iterable[NodeView], capacity: float
    ) -> None:
        """Note how long a look took and what it saw; ``capacity`` is that of unmeasured nodes."""
        self._look.observe(seconds)
        plans = {j.job: j.plan for j in jobs if j.plan is not None and not j.over}
        for job, plan in plans.items():
            self._plans["nodes"].labels(job).set(len(plan.nodes))
            self._plans["aggregators"].labels(job).set(len(plan.roles))
            self._plans["levels"].labels(job).set(plan.levels)
        self._forget("job", set(plans), self._plans.values())
        seen = set()
        for node in nodes:
            seen.add(node.name)
            self._nodes["answers"].labels(node.name).set(bool(node.epoch))
            self._nodes["load"].labels(node.name).set(node.load)
            self._nodes["capacity"].labels(node.name).set(
                capacity if node.capacity is None else node.capacity
            )
        self._forget("node", seen, self._nodes.values())

    def _forget(self, what: str, seen: set[str], gauges: Iterable[Gauge]) -> None:
        for gone in self._known[what] - seen:
            for gauge in gauges:
                gauge.remove(gone)
        self._known[what] = seen


class ReplicaMetrics:
    """One controller process, whether it leads or not; safe for several threads.

    ``leading`` is asked at each scrape.
    """

    def __init__(self, registry: CollectorRegistry, leading: Callable[[], bool]) -> None:
        Gauge(
            "lifl_controller_leader", "Whether this process leads: 1 or 0", registry=registry
        ).set_function(lambda: float(leading()))
        self._expiry = Gauge(
            "lifl_certificate_expiry_timestamp_seconds",
            "When a certificate of the platform ends (unix time), by its Secret",
            ["secret"],
            registry=registry,
        )

    def certificate(self, secret: str, expires: float) -> None:
        """Note when the certificate in a Secret ends, in seconds since 1970."""
        self._expiry.labels(secret).set(expires)


def _by_job(name: str, text: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, text, ["job"], registry=registry)


def _by_node(name: str, text: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, text, ["node"], registry=registry)
