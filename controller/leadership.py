"""Holding the Lease that makes one controller of several the leader.

Why: plans, bindings and scales must come from one process. The leader renews its lease every
two seconds and counts itself as leader for ten seconds after a renewal *began*; others wait
fifteen from the last change they saw. A leader that loses the lease cannot take back what it
has under way, so **its process exits**: ``on_lost`` has to see to that, and Kubernetes starts
it anew as a candidate.

Two threads: one asks the API server, and may hang there; the other only watches the time.
It must not decide (:mod:`controller.cluster.election` does).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from controller.clients.api import Cluster, Object
from controller.clients.errors import Conflict, Exists
from controller.clients.kinds import LEASE
from controller.cluster import election
from controller.cluster.election import Observed, Timing
from lifl.errors import LiflError

log = logging.getLogger("lifl.controller")

NAME = "lifl-controller"
JITTER = 0.2
"""Part of the pause between tries by which it differs, so that candidates do not march in step."""


class Leadership:
    """A candidate for the Lease ``name``.

    ``identity`` must differ from that of every other process, also of an earlier life of this
    one: a pod's name with something random. Both callbacks come at most once, each in a thread
    of this object; ``on_started`` must return at once. After a loss nothing is tried again.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        identity: str,
        *,
        on_started: Callable[[], None],
        on_lost: Callable[[], None],
        name: str = NAME,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._me = identity
        self._on_started = on_started
        self._on_lost = on_lost
        self._name = name
        self._timing = timing
        self._clock = clock
        self._observed: Observed | None = None
        self._changed = threading.Condition()
        self._until: float | None = None
        self._lost = False
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="leadership", daemon=True),
            threading.Thread(target=self._watch, name="leadership-watch", daemon=True),
        ]

    @property
    def leading(self) -> bool:
        """Say whether this process may act as the leader at this moment."""
        with self._changed:
            return self._until is not None and not self._lost and self._clock() < self._until

    @property
    def holder(self) -> str:
        """Return who had the lease at the last look, "" if nobody."""
        return self._observed.record.holder if self._observed is not None else ""

    def start(self) -> None:
        """Become a candidate."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Give the lease up, so that a successor has it at its next look.

        Call it when everything that only the leader may do has ended. Waits for a request
        under way, 20 seconds at worst.
        """
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()
        if self.leading:
            self._release()
        with self._changed:
            self._until = None

    # -- the thread that asks --------------------------------------------------------

    def _run(self) -> None:
        while not self._ended.is_set() and not self._lost:
            began = self._clock()
            pause = self._timing.retry
            try:
                another = self._try(began)
            except (Conflict, Exists):
                pass  # it changed meanwhile: the next look tells how
            except LiflError as e:
                log.warning("lease %s: %s", self._name, e)
            except Exception:
                log.exception("lease %s: trying again after an error", self._name)
            else:
                if another is None:
                    self._won(began)
                else:
                    self._lose(f"{another.holder} has it")
                    pause = min(pause, max(another.seconds, 0.1))
            self._ended.wait(pause * (1 + random.uniform(0, JITTER)))

    def _try(self, now: float) -> election.Wait | None:
        """Take or renew the lease; return None if it is ours, else who has it."""
        stamp = election.microtime(time.time())
        lease = self._cluster.find(LEASE, self._name, self._namespace)
        if lease is None:
            body: Object = {
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": election.first(self._me, stamp, self._timing),
            }
            written = self._cluster.create(LEASE, body, self._namespace)
        else:
            record = election.read(lease.get("spec"))
            self._observed = election.observe(self._observed, record, now)
            step = election.decide(self._observed, self._me, now, stamp, self._timing)
            if isinstance(step, election.Wait):
                return step
            body = {**lease, "spec": {**(lease.get("spec") or {}), **step.spec}}
            written = self._cluster.replace(LEASE, body, self._namespace)
        self._observed = Observed(election.read(written.get("spec")), self._clock())
        return None

    def _won(self, began: float) -> None:
        with self._changed:
            started = self._until is None
            until = began + self._timing.renew
            if started and self._clock() >= until:
                return  # the answer took too long to act on; the next will do
            self._until = until
            self._changed.notify_all()
        if started:
            log.info("leading as %s", self._me)
            self._on_started()

    def _release(self) -> None:
        try:
            lease = self._cluster.get(LEASE, self._name, self._namespace)
            record = election.read(lease.get("spec"))
            if record.holder == self._me:
                stamp = election.microtime(time.time())
                body = {**lease, "spec": {**lease["spec"], **election.released(record, stamp)}}
                self._cluster.replace(LEASE, body, self._namespace)
                log.info("gave the lease %s up", self._name)
        except LiflError as e:
            log.warning("the lease %s runs out by itself: %s", self._name, e)

    # -- the thread that watches the time --------------------------------------------

    def _watch(self) -> None:
        while not self._ended.is_set() and not self._lost:
            with self._changed:
                until = self._until
                left = None if until is None else until - self._clock()
                if left is None or left > 0:
                    self._changed.wait(left)
                    continue
            self._lose(f"it could not be renewed for {self._timing.renew:g} s")

    def _lose(self, why: str) -> None:
        """Note that the lease is another's, if it was ours."""
        with self._changed:
            if self._until is None or self._lost or self._ended.is_set():
                return
            self._lost = True
            self._changed.notify_all()
        log.error("lost the lease %s: %s", self._name, why)
        self._on_lost()
