"""Aggregators as pods of a cluster: wanted seats in, bound pods out.

Why: on a cluster nothing is started by a call: a seat is wanted, the autoscaler sees to it
that there is a pod, the scheduler gives it the seat. This object is where the three meet.
What is wanted is lost with the process; what is bound is at the API server, is found there
again and counts as wanted, so a restarted controller goes on where it was.

A seat runs from the moment it is wanted: a pod is on its way to the seat's node, and the next
plan may give that seat another role there, as it may to one that runs. One without a pod that
is ready for ``seat_seconds`` is given up (:meth:`overdue`): it no longer runs, so the loop
counts it as dead, and its node is left alone for a while (:meth:`full_nodes`).

It must not do I/O.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.cluster import seats
from controller.cluster.objects import PodView
from lifl.platform.api import Aggregator

SEAT_SECONDS = 60.0
AVOID_SECONDS = 120.0
"""How long a node counts as full after a seat on it was given up."""
UNKNOWN_SECONDS = 15.0
"""How long after its start a controller that hears of no plan lets pods wait for their seats."""
SHORTEST_LOOK = 0.05
"""Seconds between two looks at pods while they change."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """A seat that did not come to be in time, and what is known of why."""

    seat: Aggregator
    why: str


class ClusterPlatform:
    """The :class:`lifl.platform.api.Platform` of a cluster; safe for several threads.

    ``pods`` returns all that are known, the same list only while none has changed.
    ``on_wanted`` is called, in the caller's thread, when seats are wanted or no longer wanted.
    """

    def __init__(
        self,
        pods: Callable[[], Iterable[PodView]],
        *,
        on_wanted: Callable[[], None] = lambda: None,
        seat_seconds: float = SEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pods = pods
        self._on_wanted = on_wanted
        self._seat_seconds = seat_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._wanted: dict[str, Aggregator] = {}
        self._going: dict[str, str] = {}  # uid of a pod that is to go: its seat
        self._doomed: set[str] = set()  # those of them that starting the seat does not save
        self._missing_since: dict[str, float] = {}
        self._full: dict[str, float] = {}
        self._looks = 0
        self._began = clock()
        self._shown: frozenset[object] = frozenset()
        self._looked_at: Iterable[PodView] | None = None  # None: what is wanted has changed since
        self._taken: dict[str, PodView] = {}
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # -- what the loop asks ------------------------------------------------------------

    def user(self, job_uid: int | None) -> int:
        """Return the user set aside for the job; pods have their own, the agent knows them so."""
        return job_uid or 0

    def start(self, aggregator: Aggregator, uid: int) -> None:
        """Want a seat; nothing happens if it is wanted already.

        A pod of it that was to go stays. Wanted on another node, a seat without a pod moves.
        """
        name = aggregator.name
        with self._lock:
            self._looked_at = None
            self._going = {u: n for u, n in self._going.items() if n != name or u in self._doomed}
            if self._wanted.get(name) == aggregator:
                return
            self._wanted[name] = aggregator
            self._missing_since[name] = self._clock()
        self._on_wanted()

    def stop(self, names: Sequence[str]) -> None:
        """Want seats no longer; their pods end soon, which is not waited for."""
        with self._lock:
            taken = self._look()
            for name in names:
                self._drop(name, taken.get(name))
        self._on_wanted()

    def running(self) -> list[Aggregator]:
        """Return the seats that are taken, by pods' names, then those that wait for a pod."""
        with self._lock:
            taken = self._look()
            self._looks += 1
            self._shown = _signature(taken)
            waiting = [a for name, a in self._wanted.items() if name not in taken]
            bound = [a for name, a in self._wanted.items() if name in taken]
            return [*bound, *waiting]

    def wait(self, wakeup: int, timeout: float) -> None:
        """Return when seats' pods changed, ``wakeup`` is readable or ``timeout`` s are over."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        while True:
            if poll.poll(min(SHORTEST_LOOK, _left(deadline)) * 1000) or not _left(deadline):
                return
            poll.register(self._event, select.POLLIN)
            ready = poll.poll(_left(deadline) * 1000)
            poll.unregister(self._event)
            if not ready or any(fd == wakeup for fd, _ in ready):
                return
            os.eventfd_read(self._event)
            with self._lock:
                if _signature(self._look()) != self._shown:
                    return

    # -- what caches, scheduler and autoscaler ask ----------------------------------------

    def notify(self) -> None:
        """Note that pods have changed."""
        os.eventfd_write(self._event, 1)

    def wanted(self) -> list[Aggregator] | None:
        """Return the seats that there should be, bound or not, the longest wanted first.

        None while they are not known: the loop has not seen jobs and pods twice since the
        start (at the first time what is missing is wanted), nor has it been long.
        """
        with self._lock:
            if self._looks < 2 and self._clock() - self._began < UNKNOWN_SECONDS:
                return None
            self._look()
            return list(self._wanted.values())

    def going(self) -> frozenset[str]:
        """Return the uids of the pods that are to go."""
        with self._lock:
            self._look()
            return frozenset(self._going)

    def overdue(self) -> list[Overdue]:
        """Give up the seats that have been without a ready pod for too long and return them."""
        now, found = self._clock(), []
        with self._lock:
            taken = self._look()
            for name, seat in list(self._wanted.items()):
                pod = taken.get(name)
                if pod is not None and pod.ready:
                    self._missing_since.pop(name, None)
                elif now - self._missing_since.setdefault(name, now) > self._seat_seconds:
                    what = "no pod was bound" if pod is None else f"pod {pod.name} was not ready"
                    found.append(Overdue(seat, f"{what} for {self._seat_seconds:g} s"))
                    self._drop(name, pod)
                    self._doomed |= {pod.uid} if pod is not None else set()
                    self._full[seat.node] = now + AVOID_SECONDS
        if found:
            self._on_wanted()
        return found

    def full_nodes(self) -> frozenset[str]:
        """Return the nodes on which a seat was given up lately."""
        now = self._clock()
        with self._lock:
            self._full = {n: until for n, until in self._full.items() if until > now}
            return frozenset(self._full)

    def close(self) -> None:
        """Give the descriptor back; nobody may wait any more."""
        os.close(self._event)

    # -- inside, with the lock held ---------------------------------------------------------

    def _look(self) -> dict[str, PodView]:
        """Take over what the pods tell; return those whose seats are to stay, by seat."""
        known = self._pods()
        if known is self._looked_at:
            return self._taken
        pods = [p for p in known if p.seat and p.live]
        uids = {p.uid for p in pods}
        self._going = {u: n for u, n in self._going.items() if u in uids}
        self._doomed &= uids
        taken = seats.seated(p for p in pods if p.uid not in self._going)
        for name, pod in taken.items():
            seat = self._wanted.get(name)
            if seat is None or (seat.job, seat.node) != (pod.job, pod.node):
                # bound before this process was there
                self._wanted[name] = Aggregator(name, pod.job, pod.node)
        self._looked_at, self._taken = known, taken
        return taken

    def _drop(self, name: str, pod: PodView | None) -> None:
        self._looked_at = None
        self._wanted.pop(name, None)
        self._missing_since.pop(name, None)
        if pod is not None:
            self._going[pod.uid] = name


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _signature(taken: Mapping[str, PodView]) -> frozenset[object]:
    return frozenset((name, p.uid, p.node, p.ready) for name, p in taken.items())
