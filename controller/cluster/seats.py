"""Seats: the places in plans that pods of the one aggregator function take.

Why: a plan names aggregators before they run, while a Deployment's pods are all alike; so
a pod gets the next open seat when it is bound, and the API server alone knows who sits
where. From the same facts follows how many pods there should be, and which must go.
It must not do I/O, nor remember anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from controller.cluster.objects import PodView
from lifl.naming import SCHEDULER
from lifl.platform.api import Aggregator

Seat = Aggregator

AGGREGATOR, GATEWAY, COORDINATOR = "aggregator", "gateway", "coordinator"
ALL_JOBS = "*"
MARK = -1000
"""Deletion cost of a pod that is to go: a ReplicaSet prefers it to all that do not bear it."""


def seated(pods: Iterable[PodView]) -> dict[str, PodView]:
    """Return the live aggregator pods that have a seat, by its name.

    A pod that is asked to end is not among them: its seat may be given at once, since the
    agent lets a newcomer of a name wait until the old one has left.
    """
    return {p.seat: p for p in pods if _bound(p) and p.job and p.seat}


def seatless(pods: Iterable[PodView]) -> list[PodView]:
    """Return the live aggregator pods that were bound without a seat, oldest first."""
    return sorted((p for p in pods if _bound(p) and not p.job), key=_age)


def marked(pod: PodView) -> bool:
    """Say whether a pod is to go."""
    return pod.deletion_cost <= MARK


def open_seats(wanted: Iterable[Seat], pods: Iterable[PodView]) -> list[Seat]:
    """Return the wanted seats that no live pod has, in the given order, each once."""
    known = set(seated(pods))
    found = []
    for seat in wanted:
        if seat.name not in known:
            known.add(seat.name)
            found.append(seat)
    return found


def needed(wanted: Iterable[Seat], pods: Iterable[PodView]) -> int:
    """Return how many seats are wanted or taken; one whose pod is marked only if it is wanted."""
    names = {name for name, pod in seated(pods).items() if not marked(pod)}
    return len(names | {s.name for s in wanted})


def replicas(
    wanted: Iterable[Seat],
    pods: Iterable[PodView],
    demand: int = 0,
    minimum: int = 0,
    maximum: int = 0,
) -> int:
    """Return how many pods a Deployment of aggregators should have.

    One for each seat wanted or taken, and ``demand`` more, which is how many pods without a
    seat are asked for (1 while requests wait and there is none). ``pods`` are that
    Deployment's, ``wanted`` the seats it is to fill. ``maximum`` 0 is no limit.
    """
    count = max(needed(wanted, pods) + demand, minimum)
    return min(count, maximum) if maximum else count


def surplus(wanted: Iterable[Seat], pods: Sequence[PodView], replicas: int) -> list[PodView]:
    """Return the pods without a seat that are too many: mark them, or they keep seats' pods out.

    Of ``replicas`` pods, those that seats do not need may be without one; the oldest stay.
    """
    allowed = max(0, replicas - needed(wanted, pods))
    return [p for p in seatless(pods) if not marked(p)][allowed:]


def to_delete(pods: Iterable[PodView], replicas: int) -> list[PodView]:
    """Return the marked pods that the ReplicaSet will keep at ``replicas``: delete them.

    It ends pods only while it has more than that, and first those that do not run yet; a
    marked pod beyond these would hold the place of one that is wanted. Ordered by age.
    """
    live = [p for p in pods if p.live]
    if not any(marked(p) for p in live):
        return []
    going = sorted(live, key=_goes_first)[: max(0, len(live) - replicas)]
    gone = {p.uid for p in going}
    return sorted((p for p in live if marked(p) and p.uid not in gone), key=_age)


def _bound(pod: PodView) -> bool:
    """Say whether we gave a live aggregator pod its node."""
    return (
        bool(pod.node)
        and pod.live
        and pod.function == AGGREGATOR
        and pod.scheduler_name == SCHEDULER
    )


def _age(pod: PodView) -> tuple[float, str, str]:
    return pod.created, pod.namespace, pod.name


_PHASES = {"Pending": 0, "Unknown": 1}


def _goes_first(pod: PodView) -> tuple[bool, int, bool, int, float, str]:
    """Order as the ReplicaSet controller does (its last criteria are approximated)."""
    phase = _PHASES.get(pod.phase, 2)
    return bool(pod.node), phase, pod.ready, pod.deletion_cost, -pod.created, pod.name
