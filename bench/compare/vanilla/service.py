"""A service of the function: its replicas, who gets which request, and how many there should be.

Why: what activator, load balancer and autoscaler do in Knative is one thing here: requests are
held until a replica is ready, each replica takes at most so many at once, and the autoscaler's
decision is asked for at once when something comes while there is none, and every two seconds
otherwise, as the stock one does. Requests of one sum go to one replica, which stock Knative
would not see to. It must not know payloads, nor where requests come from.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench.compare.vanilla import scaler
from bench.compare.vanilla.replica import Replica

TICK_SECONDS = 2.0
"""``tickInterval`` of the stock autoscaler."""
GRACE_SECONDS = 30.0
"""``scale-to-zero-grace-period`` of ``config-autoscaler``: how long the last replica stays."""

Start = Callable[[str], Replica]


@dataclass(slots=True)
class Counts:
    """What happened since it was last asked: replicas started, and the seconds of each start."""

    started: int = 0
    start_seconds: list[float] = field(default_factory=list)


class Service:
    """One service. ``start`` makes a replica of a name; ``failed`` hears why one did not start.

    ``concurrency`` is what a replica takes at once (0: no limit). Safe for several threads.
    """

    def __init__(
        self,
        name: str,
        start: Start,
        settings: scaler.Settings,
        concurrency: int,
        failed: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._start, self._failed, self._clock = start, failed, clock
        self._settings, self._concurrency = settings, concurrency
        self._changed = threading.Condition()
        self._ready: list[Replica] = []
        self._starting = self._requests = self._taken = self._number = 0
        self._epoch = 0
        self._seen = scaler.Concurrency(settings.stable_window)
        self._state = scaler.State()
        self._empty_since = 0.0
        self._counts = Counts()
        self._threads: set[threading.Thread] = set()

    def arrived(self) -> None:
        """Hear that a request is there."""
        with self._changed:
            self._count(1)
            if not self._ready and not self._starting:
                self._scale()

    def left(self) -> None:
        """Hear that a request has been answered, or is given up."""
        with self._changed:
            self._count(-1)

    def tick(self) -> None:
        """Decide anew; call it every two seconds."""
        with self._changed:
            self._scale()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a request until there is room for it; within, a replica can be had."""
        with self._changed:
            self._changed.wait_for(self._room)
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._changed.notify_all()

    def replica_for(self, subject: str) -> Replica:
        """Return the replica that has the sum ``subject``, or one with least to do; count it busy.

        Use within ``place``, and say ``done`` afterwards.
        """
        with self._changed:
            found = next((r for r in self._ready if subject in r.sums), None)
            while found is None:
                self._changed.wait_for(lambda: self._ready)
                found = min(self._ready, key=lambda r: (len(r.sums), r.busy))
            found.sums.add(subject)
            found.busy += 1
            return found

    def done(self, replica: Replica, subject: str, *, finished: bool) -> None:
        """Say that a request was answered; ``finished``: its sum is no longer there."""
        with self._changed:
            replica.busy -= 1
            if finished:
                replica.sums.discard(subject)
            self._changed.notify_all()

    def take_counts(self) -> Counts:
        """Return what happened since the last call."""
        with self._changed:
            counts, self._counts = self._counts, Counts()
            return counts

    def scale_to_zero(self) -> None:
        """End all replicas and forget what was seen, as after two idle minutes; wait for it."""
        with self._changed:
            self._epoch += 1  # who is starting ends as soon as it has started
            ending, self._ready = self._ready, []
            self._seen = scaler.Concurrency(self._settings.stable_window)
            self._state = scaler.State()
        _end(ending)
        self.join()

    def join(self) -> None:
        """Wait for replicas that are starting or ending."""
        with self._changed:
            threads = set(self._threads)
        for thread in threads:
            thread.join()

    def _room(self) -> bool:
        room = len(self._ready) * self._concurrency
        return bool(self._ready) and (not self._concurrency or self._taken < room)

    def _count(self, by: int) -> None:
        self._requests += by
        self._seen.set(self._clock(), self._requests)

    def _scale(self) -> None:
        now = self._clock()
        settings = self._settings
        there = len(self._ready)
        seen = scaler.Seen(
            self._seen.average(now, settings.stable_window),
            self._seen.average(now, settings.panic_window),
            there,
        )
        made = scaler.decide(now, seen, self._state, settings)
        self._state = made.state
        if made.wanted:
            self._empty_since = now
        for _ in range(made.wanted - there - self._starting):
            self._begin()
        if made.wanted < there and (made.wanted or now - self._empty_since > GRACE_SECONDS):
            self._shrink(there - made.wanted)

    def _shrink(self, by: int) -> None:
        """End so many at most; one that holds a sum or a request is left alone."""
        ending = [r for r in self._ready if not r.sums and not r.busy][:by]
        self._ready = [r for r in self._ready if r not in ending]
        if ending:
            self._run(_end, ending)

    def _begin(self) -> None:
        self._number += 1
        self._starting += 1
        self._counts.started += 1
        self._run(self._bring_up, f"{self.name}-{self._number}", self._epoch)

    def _bring_up(self, name: str, epoch: int) -> None:
        replica = None
        try:
            replica = self._start(name)
            replica.await_ready()
        except Exception as e:  # whoever waits for replies must hear
            self._failed(f"{name}: {e}")
            if replica is not None:
                _end([replica])
            replica = None
        with self._changed:
            self._starting -= 1
            if replica is not None and epoch == self._epoch:
                self._ready.append(replica)
                self._counts.start_seconds.append(replica.start_seconds)
                replica = None
            self._changed.notify_all()
        if replica is not None:
            _end([replica])

    def _run(self, do: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            try:
                do(*arguments)
            finally:
                with self._changed:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name=f"{self.name} replicas")
        self._threads.add(thread)
        thread.start()


def _end(replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.end()
    for replica in replicas:
        replica.wait()
