"""How loaded each node is: what its agent counts, made a rate, a duration and an average.

Why: the agents' sums only grow, whoever asks and when; how often to sample, and how much
the past weighs, is policy. No I/O, no clock: each sample carries its agent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.plan.estimate import load, smooth

NS = 1e9


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at an agent: its life, its jobs, and what it has counted by ``at_ns``.

    ``arrived`` updates came, ``added`` were summed, and those had waited ``waited_ns``
    altogether since they came. ``at_ns`` is the agent's CLOCK_MONOTONIC.
    """

    epoch: str
    domains: frozenset[str]
    arrived: int
    added: int
    waited_ns: int
    at_ns: int

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Sample:
        """Read an agent's answer to ``look``."""
        arrived, added, waited = raw["work"]
        return cls(
            str(raw["epoch"]),
            frozenset(raw["domains"]),
            int(arrived),
            int(added),
            int(waited),
            int(raw["at_ns"]),
        )


@dataclass(frozen=True, slots=True)
class _State:
    sample: Sample
    seconds_each: float
    smoothed: float | None


class Loads:
    """The smoothed load ``Q̄`` of every node, in updates.

    A sample counts once ``period`` seconds have passed since the last that did.
    """

    def __init__(self, *, alpha: float, period: float) -> None:
        self._alpha = alpha
        self._period_ns = period * NS
        self._nodes: dict[str, _State] = {}

    def note(self, node: str, sample: Sample) -> float:
        """Take a sample and return the node's load."""
        known = self._nodes.get(node)
        if known is None or known.sample.epoch != sample.epoch:
            kept = known.smoothed if known else None
            self._nodes[node] = _State(sample, known.seconds_each if known else 0.0, kept)
            return kept or 0.0
        passed = sample.at_ns - known.sample.at_ns
        if passed < self._period_ns:
            return known.smoothed or 0.0
        rate = max(0, sample.arrived - known.sample.arrived) / (passed / NS)
        added = sample.added - known.sample.added
        each = known.seconds_each
        if added > 0:
            each = max(0, sample.waited_ns - known.sample.waited_ns) / added / NS
        smoothed = smooth(known.smoothed, load(rate, each), self._alpha)
        self._nodes[node] = _State(sample, each, smoothed)
        return smoothed

    def forget(self, nodes: frozenset[str]) -> None:
        """Drop what is known of nodes that are not among ``nodes``."""
        self._nodes = {n: s for n, s in self._nodes.items() if n in nodes}
