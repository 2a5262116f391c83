"""Who takes which place in the tree: warm aggregators first, new ones for the rest.

Why: a warm aggregator that takes another role costs a route change, a new one
a process start. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from controller.plan.hierarchy import Place
from lifl.topology import Level, Role


@dataclass(frozen=True, slots=True)
class Warm:
    """A running aggregator; ``level`` is its present or last role's, None if it had none."""

    name: str
    node: str
    level: Level | None = None


@dataclass(frozen=True, slots=True)
class Cast:
    """The tree with names: the roles, and which of their aggregators are to be started."""

    roles: tuple[Role, ...]
    start: tuple[str, ...]


def cast(
    places: Sequence[Place],
    warm: Iterable[Warm],
    new_name: Callable[[int], str],
    *,
    reuse: bool = True,
) -> Cast:
    """Give every place an aggregator.

    A place takes, on its own node, a warm aggregator that had the same level,
    else any warm one, else a new one. New names are ``new_name(k)`` for the
    smallest free *k* from 0. The same input gives the same names, and casting
    again with the outcome running changes nothing. With ``reuse`` off, all are new.
    """
    running = sorted(warm, key=lambda w: (len(w.name), w.name))
    taken: dict[int, str] = {}
    if reuse:
        free = list(running)
        taken = _match(places, free, lambda place, w: w.level == place.level)
        taken |= _match(
            [p if i not in taken else None for i, p in enumerate(places)], free, lambda _p, _w: True
        )
    names = dict(taken)
    used = {w.name for w in running}
    k = 0
    for i in range(len(places)):
        if i in names:
            continue
        while new_name(k) in used:
            k += 1
        names[i] = new_name(k)
        used.add(names[i])
    roles = tuple(
        Role(names[i], p.node, p.level, p.goal, None if p.parent is None else names[p.parent])
        for i, p in enumerate(places)
    )
    return Cast(roles, tuple(names[i] for i in range(len(places)) if i not in taken))


def _match(
    places: Sequence[Place | None], free: list[Warm], fits: Callable[[Place, Warm], bool]
) -> dict[int, str]:
    """Give each place the first free aggregator of its node that fits, taking it from ``free``."""
    found: dict[int, str] = {}
    for i, place in enumerate(places):
        if place is None:
            continue
        for w in free:
            if w.node == place.node and fits(place, w):
                found[i] = w.name
                free.remove(w)
                break
    return found
