"""The shape of the tree: how many leaves, middles and one top, and who sends to whom.

Why: leaves on one node work side by side, two for each of its processors at most, since
adding is all work and hardly any waiting, and no more than what comes in keeps busy, since each
makes one more sum to be added; a middle makes one partial sum of a node, so that the
network carries one object a node; the top is put where most partial sums are already.
Shapes name no process: `reuse` fills the places. It must not do I/O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lifl.topology import Level

UTILIZATION = 0.7
"""The part of its time a leaf is to be busy at most, as of a Knative replica's concurrency."""


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


def leaves_that_keep_up(at_work: float) -> int:
    """Return how many leaves have time for work that keeps ``at_work`` of them busy, at least 1.

    That is a mean, ``k·s`` of arrivals a second and seconds to add one (Little's law), so no
    leaf is planned to be busy for more than :data:`UTILIZATION` of it.
    """
    if at_work < 0:
        raise ValueError("what is at work is not negative")
    return max(1, math.ceil(at_work / UTILIZATION))


def shape(
    updates: Mapping[str, int],
    *,
    fan_in: int,
    limits: Mapping[str, int],
    home: str | None = None,
    hierarchical: bool = True,
    promote: bool = True,
) -> tuple[Place, ...]:
    """Return the tree for ``updates`` expected per node, the top first.

    One node: leaves send to the top, and a node that needs one leaf only has
    the top alone. Several nodes: a node with more than one leaf has a middle;
    a lone leaf sends straight to the top. The top is on the node with most
    updates; among equals on ``home`` (the coordinator's node), else the first
    by name. ``limits`` are the most leaves of each node.

    With ``promote`` the last of a node's leaves is its middle, or top, as well: what sums the
    node's partials waits for them, and takes a share of the updates itself meanwhile. That is one
    aggregator and one sum less for each node, and the round's last update is added where it ends.
    (LIFL, MLSys 2024, reuses a leaf as a middle or top within a round.)

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
    shares = {node: _shares(n, leaves[node]) for node, n in used.items()}
    own = dict.fromkeys(used, 0)
    if promote and hierarchical:
        own |= {n: shares[n].pop() for n in (middles if len(used) > 1 else used)}
    incoming = sum(1 if node in middles else len(shares[node]) for node in used)
    at_top = own[top_node] if len(used) == 1 else 0
    places = [Place(top_node, Level.TOP, incoming + at_top, None)]
    for node in used:
        parent = 0
        if node in middles:
            parent = len(places)
            places.append(Place(node, Level.MIDDLE, len(shares[node]) + own[node], 0))
        places += [Place(node, Level.LEAF, goal, parent) for goal in shares[node]]
    return tuple(places)


def _shares(total: int, parts: int) -> list[int]:
    """Split ``total`` into ``parts`` whole numbers that differ by at most 1, larger first."""
    small, more = divmod(total, parts)
    return [small + 1] * more + [small] * (parts - more)
