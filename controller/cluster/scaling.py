"""How many pods a Deployment of aggregators is to have, and which of them are to go.

Why: a ReplicaSet knows a number, not seats. Which pods it ends is therefore marked first
(it prefers those of the lowest deletion cost), and a marked pod that it would keep, because
another is wanted at the same moment, is deleted. It must not do I/O nor read a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace

from controller.cluster import seats
from controller.cluster.objects import PodView
from controller.cluster.seats import MARK, Seat
from controller.cluster.targets import Target


@dataclass(frozen=True, slots=True)
class Steps:
    """What is to be done, in this order. ``limited`` is how many pods the maximum cuts off."""

    mark: tuple[PodView, ...]
    unmark: tuple[PodView, ...]
    replicas: int
    delete: tuple[PodView, ...]
    limited: int = 0


def decide(
    target: Target,
    pods: Iterable[PodView],
    wanted: Sequence[Seat],
    going: Set[str],
    extra: int,
    *,
    serves: bool,
) -> Steps:
    """Return what is to be done for one Deployment and its ``pods``.

    ``wanted`` are the seats that it is to fill, ``going`` the uids of seats' pods that are no
    longer wanted, ``extra`` how many pods without a seat are asked for. One that is unreachable and
    does not serve (:func:`controller.cluster.targets.serving`) has nothing to live for.
    """
    own = [p for p in pods if p.live]
    if not target.reachable and not serves:
        return Steps((), (), 0, ())
    going = going | {p.uid for p in _doubles(own)}
    names = {s.name for s in wanted}
    again = {p.uid for p in own if _seated(p) and seats.marked(p) and p.seat in names} - going
    after = sorted((_costing(p, going, again) for p in own), key=seats.marked, reverse=True)
    asked = seats.replicas(wanted, after, extra)
    count = target.clamp(asked)
    spare = {p.uid for p in seats.surplus(wanted, after, count)}
    after = [_costing(p, spare, set()) for p in after]
    return Steps(
        mark=tuple(p for p in own if p.uid in going | spare and not seats.marked(p)),
        unmark=tuple(p for p in own if p.uid in again),
        replicas=count,
        delete=tuple(seats.to_delete(after, count)),
        limited=max(0, asked - count),
    )


def why(wanted: Iterable[Seat], extra: int, spare: int = 0) -> str:
    """Return in words what pods are wanted for: "5 aggregators wanted: 3 by job a, 2 by job b".

    ``extra`` are asked for without a seat, ``spare`` more there must be.
    """
    jobs = sorted(Counter(s.job for s in wanted).items())
    total = sum(n for _, n in jobs) + extra + spare
    parts = [f"{n} by job {job}" for job, n in jobs]
    if extra:
        parts.append(f"{extra} for requests without a job")
    if spare:
        parts.append(f"{spare} for the minimum")
    noun = "aggregator" if total == 1 else "aggregators"
    return f"{total} {noun} wanted" + (f": {', '.join(parts)}" if parts else "")


@dataclass(frozen=True, slots=True)
class Held:
    """How many pods without a seat are held at least, ``since`` when (seconds) that is so.

    ``known`` are the uids of those that were there at the last look.
    """

    count: int = 0
    since: float = 0.0
    known: frozenset[str] = frozenset()


def hold(before: Held, asked: int, seatless: Set[str], now: float, keep: float) -> Held:
    """Return how many pods without a seat there should be now.

    As many as are ``asked`` for, and what was asked for less than ``keep`` seconds ago. Pods
    that got no seat (``seatless``, uids) count as asked for when they are first seen: an
    update of the Deployment brings some while the old ones sit on all seats.
    """
    known = frozenset(seatless)
    if known - before.known:
        asked = max(asked, len(known))
    if asked >= before.count or now - before.since >= keep:
        return Held(asked, now, known)
    return Held(before.count, before.since, known)


def _seated(pod: PodView) -> bool:
    return bool(pod.node and pod.job and pod.seat)


def _doubles(pods: Iterable[PodView]) -> list[PodView]:
    """Return the pods whose seat an older one has: two leaders gave it at the same time."""
    found: list[PodView] = []
    names: set[str] = set()
    seated = [p for p in pods if _seated(p)]
    if len({p.seat for p in seated}) == len(seated):
        return found
    for pod in sorted(seated, key=lambda p: (p.created, p.name)):
        if pod.seat in names:
            found.append(pod)
        names.add(pod.seat)
    return found


def _costing(pod: PodView, going: Set[str], again: Set[str]) -> PodView:
    if pod.uid in going and not seats.marked(pod):
        return replace(pod, deletion_cost=MARK)
    return replace(pod, deletion_cost=0) if pod.uid in again else pod
