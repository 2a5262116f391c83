"""Where a round's updates go: nodes by WorstFit, and leaves of each node's service.

Why: a stock scheduler spreads work over all nodes; the same policy code as LIFL's is used for it.
Nodes are numbers here. Each node's updates are split among ``ceil(updates / fan_in)`` leaves, as
LIFL counts them. It must not do I/O.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.compare.vanilla.event import Subject
from controller.plan.hierarchy import leaves_for
from controller.plan.placement import Bin, Policy, place


class Part(NamedTuple):
    """What one update belongs to: a leaf's sum, and how many updates that waits for."""

    subject: Subject
    goal: int


def plan(round_: int, updates: int, nodes: int, fan_in: int) -> list[Part]:
    """Return the part of each of ``updates`` updates.

    Raises
    ------
    ValueError
        if one of the numbers is below 1.
    """
    if min(updates, nodes, fan_in) < 1:
        raise ValueError("at least one update, one node and a fan-in of one, please")
    bins = [Bin(str(i), float(updates)) for i in range(nodes)]
    placed = place([1.0] * updates, bins, Policy.WORST_FIT)
    leaves = {node: leaves_for(n, fan_in, n) for node, n in placed.counts.items()}
    total = sum(leaves.values())
    seen: dict[str, int] = {}
    members: list[tuple[int, int]] = []
    for node in placed.nodes:
        assert node is not None  # each bin has room for all
        number = seen[node] = seen.get(node, 0) + 1
        members.append((int(node), (number - 1) // fan_in))
    counts = {leaf: members.count(leaf) for leaf in set(members)}
    return [Part(Subject(round_, total, *leaf), counts[leaf]) for leaf in members]
