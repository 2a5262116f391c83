"""The shape of the tree: how many leaves, middles and one top, and who sends to whom.

Why: leaves on one node work side by side, two for each of its processors at most, since
adding is all work and hardly any waiting; a middle makes one partial sum of a node, so that the
network carries one object a node; the top is put where most partial sums are already.
Shapes name no process: `reuse` fills the places. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lifl.topology import Level


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the tree; ``parent`` is an index into the shape, None for the top."""

    node: str
    level: Level
    goal: int
    parent: int | None


def leaves_for(updates: int, fan_in: int, limit: int) -> int:
    """Return ``ceil(updates / fan_in)``, at most ``limit``."""
    if fan_in < 1 or limit < 1:
        raise ValueError("fan-in and limit are at least 1")
    return min(limit, -(-updates // fan_in))


def shape(
    updates: Mapping[str, int],
    *,
    fan_in: int,
    limits: Mapping[str, int],
    home: str | None = None,
    hierarchical: bool = True,
) -> tuple[Place, ...]:
    """Return the tree for ``updates`` expected per node, the top first.

    One node: leaves send to the top, and a node that needs one leaf only has
    the top alone. Several nodes: a node with more than one leaf has a middle;
    a lone leaf sends straight to the top. The top is on the node with most
    updates; among equals on ``home`` (the coordinator's node), else the first
    by name. ``limits`` are the most leaves of each node.

    Not ``hierarchical``: there are no middles, as where replicas follow concurrency alone
    (``ceil(concurrency / target)``, the stock autoscaler of Knative Serving, whose target is the
    fan-in here) and know neither each other nor the processors: every leaf sends to the top.
    """
    used = {node: n for node, n in sorted(updates.items()) if n > 0}
    if not used:
        return ()
    top_node = min(used, key=lambda node: (-used[node], node != home, node))
    leaves = {node: leaves_for(n, fan_in, limits[node]) for node, n in used.items()}
    if len(used) == 1 and leaves[top_node] == 1:
        return (Place(top_node, Level.TOP, used[top_node], None),)

    middles = [node for node in used if hierarchical and len(used) > 1 and leaves[node] > 1]
    incoming = sum(1 if node in middles else leaves[node] for node in used)
    places = [Place(top_node, Level.TOP, incoming, None)]
    for node, n in used.items():
        parent = 0
        if node in middles:
            parent = len(places)
            places.append(Place(node, Level.MIDDLE, leaves[node], 0))
        places += [Place(node, Level.LEAF, goal, parent) for goal in _shares(n, leaves[node])]
    return tuple(places)


def _shares(total: int, parts: int) -> list[int]:
    """Split ``total`` into ``parts`` whole numbers that differ by at most 1, larger first."""
    small, more = divmod(total, parts)
    return [small + 1] * more + [small] * (parts - more)
