"""The scheduler: gives pods that name ``lifl-scheduler`` their node, and aggregators their seat.

Why: one thread looks, decides (:mod:`controller.cluster.binding`) and binds; node, job, name
and the proof of both reach a pod in the one step of its binding. What was bound is assumed
until the copy of the cluster shows it, so that no seat is given twice. A binding of which the
answer was lost is tried again as it was until it is known what became of it.

Schedulers are not told of each other's bindings before they are made: where another one
fills a node at the same moment, the kubelet refuses a pod and its owner makes a new one.

It must not hold any truth: a new leader finds all of it at the API server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

from controller.clients.api import Cluster
from controller.clients.errors import Conflict, NotFound
from controller.clients.kinds import POD
from controller.cluster.assumed import Assumed
from controller.cluster.binding import (
    Bind,
    Decision,
    Provision,
    Refuse,
    Surroundings,
    decide,
    pending,
)
from controller.cluster.objects import NodeObject, PodView, pod_view
from controller.cluster.seats import Seat
from controller.looking import Looking, at_most_a_third
from controller.scheduler_metrics import SchedulerMetrics
from controller.telling import Teller
from controller.volumes import Volumes
from lifl.errors import LiflError, Unavailable
from lifl.naming import ANNOTATION_JOB, ANNOTATION_NAME, ANNOTATION_REGISTRATION

log = logging.getLogger("lifl.controller")

RETRY_SECONDS = 10.0
"""Longest time between two looks at a pod that could not be bound."""
SOON_SECONDS = 1.0
"""The same when a binding is in doubt or a volume is waited for: nothing announces these."""
PUT_OFF_SECONDS = 5.0
"""How long a pod is left alone whose binding the API server refused."""
SHORTEST_PAUSE = 0.01
PAUSE = at_most_a_third(SHORTEST_PAUSE, 1.0)
AT_ONCE = 4
"""Bindings under way at a time."""

Mint = Callable[[str, str, str, str], str]
"""Return the registration token for a pod's uid, kind, name and job."""


class Scheduler:
    """Binds pods; start it when the caches of pods and nodes have their first list.

    ``pods`` (of the whole cluster) and ``nodes`` return what there is; ``seats`` the wanted
    ones in order, None while unknown; ``agents`` the nodes with a live agent; ``namespaces``
    where functions may run. ``leading`` is asked right before each binding.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        pods: Callable[[], Iterable[PodView]],
        nodes: Callable[[], Iterable[NodeObject]],
        seats: Callable[[], Sequence[Seat] | None],
        agents: Callable[[], Set[str]],
        namespaces: Callable[[], Set[str]],
        mint: Mint,
        metrics: SchedulerMetrics,
        leading: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._pods = pods
        self._nodes = nodes
        self._seats = seats
        self._agents = agents
        self._namespaces = namespaces
        self._mint = mint
        self._metrics = metrics
        self._leading = leading
        self._clock = clock
        self._volumes = Volumes(cluster, clock=clock)
        self._assumed = Assumed()
        self._put_off: dict[str, float] = {}
        self._told: dict[str, tuple[str, float]] = {}
        self._patience = RETRY_SECONDS
        self._pause = SHORTEST_PAUSE
        self._looking = Looking(
            "scheduler",
            self.step,
            pause=lambda _took: self._pause,
            patience=lambda: self._patience,
            failed=lambda e: log.warning("scheduling is put off: %s", e),
        )
        self.wake, self.start = self._looking.wake, self._looking.start
        self._teller = Teller(cluster)
        self._workers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scheduler-bind")

    def stop(self) -> None:
        """End after the bindings under way; no thread is left."""
        self._looking.stop()
        self._workers.shutdown(cancel_futures=True)
        self._teller.stop()

    def step(self) -> list[Decision]:
        """Look once, do what is to be done and return what was decided."""
        self._resolve()
        began = self._clock()
        pods = self._assumed.over(self._pods(), began)
        self._put_off = {uid: until for uid, until in self._put_off.items() if began < until}
        waiting = pending(pods)
        known = {p.uid for p in waiting}
        self._told = {uid: said for uid, said in self._told.items() if uid in known}
        waiting = [p for p in waiting if p.uid not in self._put_off]
        claims = self._volumes.look(waiting)
        decisions: list[Decision] = []
        if waiting:
            around = Surroundings(self._seats(), self._agents(), self._namespaces(), claims)
            decisions = decide(waiting, self._nodes(), pods, around)
            self._metrics.deciding(self._clock() - began)
        self._pause = PAUSE(self._clock() - began)  # of deciding: bindings take no processor
        self._do(decisions)
        soon = self._assumed.doubts() or self._put_off or any(p.claims for p in waiting)
        self._patience = SOON_SECONDS if soon else RETRY_SECONDS
        return decisions

    def _resolve(self) -> None:
        """Find out what became of bindings in doubt, by trying those again that are not seen."""
        if self._assumed.doubts():
            self._assumed.over(self._pods(), self._clock())
            self._bind_all(self._assumed.doubts())

    # -- doing -----------------------------------------------------------------------

    def _do(self, decisions: Sequence[Decision]) -> None:
        self._bind_all([d for d in decisions if isinstance(d, Bind)])
        told = set()
        for decision in decisions:
            if isinstance(decision, Provision):
                for claim in decision.claims:
                    name = (decision.pod.namespace, claim)
                    if name not in told:  # two pods of one claim: the first has its way
                        told.add(name)
                        self._provision(decision, claim)
            elif isinstance(decision, Refuse):
                self._refuse(decision.pod, decision.message)

    def _bind_all(self, binds: Sequence[Bind]) -> None:
        """Bind; each thread touches its own pod's entries only."""
        if len(binds) == 1:
            self._bind(binds[0])
        elif binds:
            list(self._workers.map(self._bind, binds))

    def _bind(self, bind: Bind) -> None:
        pod = bind.pod
        if self._looking.ended or not self._leading():
            return
        began = self._clock()
        try:
            self._cluster.bind(
                pod.namespace, pod.name, bind.node, uid=pod.uid, annotations=self._notes(bind)
            )
        except Conflict as e:
            self._read_again(bind, str(e))
        except NotFound:
            self._assumed.drop(pod)
        except Unavailable as e:
            log.warning("%s; whether it was done will show", e)
            self._metrics.failed()
            self._assumed.add(bind.seen, began, doubt=bind)
        except LiflError as e:
            self._fail(pod, f"the binding to {bind.node} was refused: {e}")
        else:
            self._metrics.binding(self._clock() - began)
            self._done(bind)

    def _notes(self, bind: Bind) -> dict[str, str]:
        if not bind.kind:
            return {}
        notes = {ANNOTATION_JOB: bind.job, ANNOTATION_NAME: bind.name}
        if bind.job:  # without a job it has nothing to register for
            token = self._mint(bind.pod.uid, bind.kind, bind.name, bind.job)
            notes[ANNOTATION_REGISTRATION] = token
        return notes

    def _read_again(self, bind: Bind, why: str) -> None:
        """Find out what a refused binding means: it is done only if the pod is on our node."""
        pod = bind.pod
        try:
            raw = self._cluster.find(POD, pod.name, pod.namespace)
        except LiflError as e:
            log.warning("pod %s/%s: %s", pod.namespace, pod.name, e)
            self._assumed.add(bind.seen, self._clock(), doubt=bind)
            return
        seen = pod_view(raw) if raw is not None else None
        if seen is None or seen.uid != pod.uid:
            self._assumed.drop(pod)
        elif (seen.node, seen.seat, seen.job) == (bind.node, bind.name, bind.job):
            self._done(bind)
        elif seen.node:
            log.warning("pod %s/%s is on %s already", pod.namespace, pod.name, seen.node)
            self._assumed.add(seen, self._clock())
        else:
            self._fail(pod, f"the binding to {bind.node} was refused: {why}")

    def _fail(self, pod: PodView, message: str) -> None:
        """Leave a pod alone for a while."""
        self._assumed.drop(pod)
        self._put_off[pod.uid] = self._clock() + PUT_OFF_SECONDS
        self._metrics.failed()
        self._refuse(pod, message)

    def _done(self, bind: Bind) -> None:
        pod = bind.pod
        self._assumed.add(bind.seen, self._clock())
        self._metrics.bound(pod.function)
        self._teller.bound(pod, bind.node)
        seat = f" as {bind.name} of job {bind.job}" if bind.job else ""
        log.info("bound pod %s/%s to %s%s", pod.namespace, pod.name, bind.node, seat)

    def _provision(self, decision: Provision, claim: str) -> None:
        pod, node = decision.pod, decision.node
        try:
            self._volumes.select(pod.namespace, claim, node)
            log.info("claim %s/%s gets its volume on %s", pod.namespace, claim, node)
        except LiflError as e:
            self._fail(pod, f'persistentvolumeclaim "{claim}" cannot be told its node: {e}')

    def _refuse(self, pod: PodView, message: str) -> None:
        """Say why a pod stays without a node, if that was not said before."""
        said, since = self._told.get(pod.uid, ("", time.time()))
        if said != message:
            self._told[pod.uid] = (message, since)
            log.info("pod %s/%s waits: %s", pod.namespace, pod.name, message)
            self._metrics.refused(pod.function)
            self._teller.refused(pod, message, since)
