"""How loaded each node is, by each job: what its agent counts, made a rate, a duration, an average.

Why: the agents' sums only grow, whoever asks and when; how often to sample, and how much
the past weighs, is policy. By job, since a job's next round is not load beside itself. No I/O,
no clock: each sample carries its agent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from controller.plan.estimate import load, smooth

NS = 1e9


class Counts(NamedTuple):
    """What a node has counted of a job.

    ``arrived`` updates came, ``added`` were summed, and those had taken ``waited_ns``
    altogether since they came, of which they were being added for ``busy_ns``.
    """

    arrived: int = 0
    added: int = 0
    waited_ns: int = 0
    busy_ns: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at an agent: its life, its jobs, and what it has counted of each by ``at_ns``.

    ``at_ns`` is the agent's CLOCK_MONOTONIC.
    """

    epoch: str
    domains: frozenset[str]
    work: Mapping[str, Counts]
    at_ns: int

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Sample:
        """Read an agent's answer to ``look``."""
        return cls(
            str(raw["epoch"]),
            frozenset(raw["domains"]),
            {job: Counts(*map(int, counts)) for job, counts in raw["work"].items()},
            int(raw["at_ns"]),
        )


@dataclass(frozen=True, slots=True)
class _Estimate:
    """Of one job on one node; the smoothed are None before the first sample."""

    seconds_each: float = 0.0
    adding_each: float = 0.0
    in_service: float | None = None
    at_work: float | None = None


@dataclass(frozen=True, slots=True)
class _State:
    sample: Sample
    jobs: Mapping[str, _Estimate]

    @property
    def loads(self) -> dict[str, float]:
        return {job: e.in_service for job, e in self.jobs.items() if e.in_service is not None}

    @property
    def work(self) -> dict[str, float]:
        return {job: e.at_work for job, e in self.jobs.items() if e.at_work is not None}


class Loads:
    """The smoothed load ``Q̄`` of every job on every node, in updates, and its work.

    The load is of updates in service, waiting or being added; the work is of those that are being
    added, which is how many aggregators that keeps busy.

    A sample counts once ``period`` seconds have passed since the last that did; one that comes
    late counts for each period since, so that load fades with time, however often one looks.
    """

    def __init__(self, *, alpha: float, period: float) -> None:
        self._alpha = alpha
        self._period_ns = period * NS
        self._nodes: dict[str, _State] = {}

    def note(self, node: str, sample: Sample) -> Mapping[str, float]:
        """Take a sample and return the node's load by each of its jobs."""
        known = self._nodes.get(node)
        if known is None or known.sample.epoch != sample.epoch:
            known = _State(sample, known.jobs if known else {})
        elif sample.at_ns - known.sample.at_ns >= self._period_ns:
            known = _State(sample, self._estimates(known, sample))
        self._nodes[node] = known
        return known.loads

    def work(self, node: str) -> Mapping[str, float]:
        """Return how many aggregators each job keeps busy on a node, as of the last sample."""
        known = self._nodes.get(node)
        return known.work if known is not None else {}

    def _estimates(self, known: _State, sample: Sample) -> dict[str, _Estimate]:
        """Return the estimates of all jobs of ``sample``; what is there no more is forgotten."""
        passed = sample.at_ns - known.sample.at_ns
        alpha = self._alpha ** (passed // self._period_ns)
        found = {}
        for job, now in sample.work.items():
            then = known.sample.work.get(job, Counts())
            last = known.jobs.get(job, _Estimate())
            rate = max(0, now.arrived - then.arrived) / (passed / NS)
            added, each, adding = now.added - then.added, last.seconds_each, last.adding_each
            if added > 0:
                each = max(0, now.waited_ns - then.waited_ns) / added / NS
                adding = max(0, now.busy_ns - then.busy_ns) / added / NS
            found[job] = _Estimate(
                each,
                adding,
                smooth(last.in_service, load(rate, each), alpha),
                smooth(last.at_work, load(rate, adding), alpha),
            )
        return found

    def forget(self, nodes: frozenset[str]) -> None:
        """Drop what is known of nodes that are not among ``nodes``."""
        self._nodes = {n: s for n, s in self._nodes.items() if n in nodes}
