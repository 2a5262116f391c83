"""Which node sums which update: bin packing of updates to nodes by residual capacity.

Why: updates packed on few nodes meet in shared memory; spread over many they
cross the network. BestFit puts an update on the node in use that it fills
best, and opens the roomiest unused node only when none in use fits; FirstFit
and WorstFit (the spread of a stock scheduler) are there to compare with.

All three place a run of equal sizes on a node at once where the rule picks that
node again and again, so equal updates cost time by nodes, not by updates.
It must not do I/O.
"""

from __future__ import annotations

import bisect
import enum
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Policy(enum.StrEnum):
    """The rule that picks a node."""

    BEST_FIT = "bestfit"
    FIRST_FIT = "firstfit"
    WORST_FIT = "worstfit"


@dataclass(frozen=True, slots=True)
class Bin:
    """A node: its residual capacity in updates, and whether it is in use already."""

    node: str
    capacity: float
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each update goes.

    ``nodes[i]`` is the node of update *i*, None if nothing had room for it;
    ``left`` is what each node has left.
    """

    nodes: tuple[str | None, ...]
    left: dict[str, float]

    @property
    def counts(self) -> dict[str, int]:
        """Return how many updates each node got; nodes without any are not in it."""
        found: dict[str, int] = {}
        for node in self.nodes:
            if node is not None:
                found[node] = found.get(node, 0) + 1
        return found

    @property
    def unplaced(self) -> int:
        """Return how many updates found no room."""
        return self.nodes.count(None)


def place(sizes: Iterable[float], bins: Sequence[Bin], policy: Policy) -> Placement:
    """Place updates of ``sizes`` (in updates, 1.0 is a usual one) in the order given.

    An update goes to a node only if its size is at most what the node has left.

    Raises
    ------
    ValueError
        if a size is not positive, a capacity is negative or a node is named twice.
    """
    if len({b.node for b in bins}) != len(bins):
        raise ValueError("a node is named twice")
    if any(b.capacity < 0 for b in bins):
        raise ValueError("a node's capacity is negative")
    rule: _Rule = _RULES[policy](bins)
    nodes: list[str | None] = []
    for size, run in itertools.groupby(sizes):
        if size <= 0:
            raise ValueError(f"an update's size is {size}; it must be positive")
        wanted = sum(1 for _ in run)
        while wanted:
            node, taken = rule.take(size, wanted)
            if not taken:
                nodes.extend(itertools.repeat(None, wanted))
                break
            nodes.extend(itertools.repeat(node, taken))
            wanted -= taken
    return Placement(tuple(nodes), rule.left())


class _Rule(Protocol):
    """State of one packing."""

    def take(self, size: float, wanted: int) -> tuple[str | None, int]:
        """Place 1 to ``wanted`` equal updates on one node; (None, 0) if none fits."""
        ...

    def left(self) -> dict[str, float]:
        """Return what each node has left."""
        ...


def _fill(left: float, size: float, wanted: int) -> tuple[int, float]:
    taken = min(wanted, int(left // size))
    return taken, max(0.0, left - taken * size)


class _BestFit:
    """Least left over among the nodes in use that still fit, else the roomiest unused node.

    After a placement the chosen node is tighter than before, and those tighter than
    it did not fit: so it is chosen again until it is full.
    """

    def __init__(self, bins: Sequence[Bin]) -> None:
        self._names = [b.node for b in bins]
        self._used = sorted((b.capacity, i) for i, b in enumerate(bins) if b.in_use)
        self._unused = [(-b.capacity, i) for i, b in enumerate(bins) if not b.in_use]
        heapq.heapify(self._unused)

    def take(self, size: float, wanted: int) -> tuple[str | None, int]:
        at = bisect.bisect_left(self._used, (size, -1))
        if at < len(self._used):
            left, i = self._used.pop(at)
        elif self._unused and -self._unused[0][0] >= size:
            left, i = heapq.heappop(self._unused)
            left = -left
        else:
            return None, 0
        taken, left = _fill(left, size, wanted)
        bisect.insort(self._used, (left, i))
        return self._names[i], taken

    def left(self) -> dict[str, float]:
        known = {i: left for left, i in self._used} | {i: -neg for neg, i in self._unused}
        return {self._names[i]: left for i, left in sorted(known.items())}


class _FirstFit:
    """The first node in the given order that fits; it stays the first until it is full."""

    def __init__(self, bins: Sequence[Bin]) -> None:
        self._names = [b.node for b in bins]
        self._left = [b.capacity for b in bins]

    def take(self, size: float, wanted: int) -> tuple[str | None, int]:
        for i, left in enumerate(self._left):
            if left >= size:
                taken, self._left[i] = _fill(left, size, wanted)
                return self._names[i], taken
        return None, 0

    def left(self) -> dict[str, float]:
        return dict(zip(self._names, self._left, strict=True))


class _WorstFit:
    """The node with most left, whether in use or not: one update at a time."""

    def __init__(self, bins: Sequence[Bin]) -> None:
        self._names = [b.node for b in bins]
        self._heap = [(-b.capacity, i) for i, b in enumerate(bins)]
        heapq.heapify(self._heap)

    def take(self, size: float, wanted: int) -> tuple[str | None, int]:
        if not self._heap or -self._heap[0][0] < size:
            return None, 0
        left, i = self._heap[0]
        heapq.heapreplace(self._heap, (left + size, i))
        return self._names[i], min(1, wanted)

    def left(self) -> dict[str, float]:
        return {self._names[i]: -neg for neg, i in sorted(self._heap, key=lambda e: e[1])}


_RULES: dict[Policy, Callable[[Sequence[Bin]], _Rule]] = {
    Policy.BEST_FIT: _BestFit,
    Policy.FIRST_FIT: _FirstFit,
    Policy.WORST_FIT: _WorstFit,
}
