"""The autoscaler: brings Deployments of aggregators to the pods that plans and requests want.

Why: one thread looks, decides (:mod:`controller.cluster.scaling`, and for Knative
:mod:`controller.cluster.autoscale`) and acts; what fails is simply still to be done at the
next look. Replicas are the seats of plans that are wanted, and one more while requests wait
for which there is no pod. Those it hears of from Knative's activator, so such a pod's requests
go on passing the activator, or it would not know when they end. A number of replicas that
somebody else set (a person; OpenFaaS's gateway, which scales a function up before it calls it)
counts as asked for as well. Either is held for ``keep_seconds``; how many requests there are
is not looked at: who wants several pods for plain HTTP says so with min-scale.

It must not hold any truth: seats are at the API server, or wanted again by the next look.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from controller.autoscaler_metrics import DOWN, UP, AutoscalerMetrics
from controller.clients.activator import Activator
from controller.clients.api import Cluster
from controller.clients.errors import Conflict, NotFound
from controller.clients.kinds import DEPLOYMENT, POD
from controller.cluster import scaling, seats, targets
from controller.cluster.autoscale import Pods
from controller.cluster.objects import DELETION_COST, PodView
from controller.cluster.scaling import Held, Steps
from controller.cluster.seats import MARK, Seat
from controller.cluster.targets import Deployed, Target, Way
from controller.complaints import Complaints
from controller.knative import KnativeObjects
from controller.looking import Looking, at_most_a_third
from controller.platform import ClusterPlatform, Overdue
from lifl.errors import LiflError

log = logging.getLogger("lifl.controller")

PATIENCE_SECONDS = 1.0
"""Longest time between two looks: what is held runs out without anything that tells of it."""
SHORTEST_PAUSE = 0.02

Key = tuple[str, str]


@dataclass(slots=True)
class _Memory:
    """What is remembered of one Deployment; losing it costs a little patience.

    ``replicas`` is what it had at its ``version`` when it was last looked at or scaled.
    """

    version: int = -1
    replicas: int = 0
    held: Held = field(default_factory=Held)
    unreachable_at: float = float("-inf")
    limited: int = 0


class Autoscaler:
    """Scales; start it when the caches of Deployments and pods have their first list.

    ``deployments`` and ``pods`` return what there is, ``namespaces`` where functions may run.
    ``leading`` is asked before anything is done. ``activator`` is watched only while it may
    hold requests. It ends the threads of what it has made, not those of what it was given.
    """

    def __init__(
        self,
        cluster: Cluster,
        platform: ClusterPlatform,
        *,
        deployments: Callable[[], Iterable[Deployed]],
        pods: Callable[[], Iterable[PodView]],
        namespaces: Callable[[], Set[str]],
        activator: Activator,
        metrics: AutoscalerMetrics,
        keep_seconds: float,
        leading: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._platform = platform
        self._deployments = deployments
        self._pods = pods
        self._namespaces = namespaces
        self._activator = activator
        self._metrics = metrics
        self._keep_seconds = keep_seconds
        self._leading = leading
        self._clock = clock
        self._memory: dict[Key, _Memory] = {}
        self._complaints = Complaints(clock)
        self._events: list[tuple[Mapping[str, str], str, str, bool]] = []
        self._looking = Looking(
            "autoscaler",
            self.step,
            pause=at_most_a_third(SHORTEST_PAUSE),
            patience=lambda: PATIENCE_SECONDS,
            failed=lambda e: log.warning("scaling is put off: %s", e),
        )
        self.wake, self.start = self._looking.wake, self._looking.start
        self._knative = KnativeObjects(cluster, on_change=self.wake, clock=clock)

    def stop(self) -> None:
        """End after what is under way."""
        self._looking.stop()
        self._knative.stop()

    def step(self) -> None:
        """Look once and do what is to be done."""
        if not self._leading():
            return
        self._knative.look()
        overdue = self._platform.overdue()
        wanted, going = self._platform.wanted(), self._platform.going()
        found = [
            self._settled(t)
            for t in targets.find(
                self._deployments(), self._knative.autoscalers(), self._namespaces()
            )
        ]
        server = targets.serving(found)
        self._tell_overdue(overdue, server)
        pods = [p for p in self._pods() if p.function == seats.AGGREGATOR and p.live]
        own = {t.key: [p for p in pods if t.deployment.owns(p)] for t in found}
        rows, asked = [], False
        for target in found:
            serves = target is server
            here = []
            if serves:
                others = [p for p in pods if not target.deployment.owns(p)]
                here = seats.open_seats(wanted or (), others)
            look = _Look(target, own[target.key], here, going, serves, wanted is not None)
            desired, by_requests = self._bring(look)
            asked |= by_requests
            rows.append((*target.key, desired, target.deployment.ready))
        self._activator.watch(asked)
        self._memory = {t.key: self._memory[t.key] for t in found}
        waiting = seats.open_seats(wanted or (), pods)
        self._metrics.looked(rows, len(wanted or ()), len(waiting))
        self._say_events()

    # -- deciding on one Deployment ------------------------------------------------------

    def _settled(self, target: Target) -> Target:
        """Return the target with the replicas it has by now.

        One that never came up and was called unreachable lately is so for a while: it would
        be reachable again as soon as it has no pods, and its initial scale would bring them back.
        """
        memory = self._memory.setdefault(target.key, _Memory())
        now = self._clock()
        if not target.reachable:
            memory.unreachable_at = now
        elif not target.initialized and now - memory.unreachable_at < self._keep_seconds:
            bounds = replace(target.bounds, least=0)
            target = replace(target, reachable=False, bounds=bounds)
        if target.deployment.version < memory.version:  # it was scaled, which is not seen yet
            target = replace(
                target, deployment=replace(target.deployment, replicas=memory.replicas)
            )
        return target

    def _bring(self, look: _Look) -> tuple[int, bool]:
        """Do what one Deployment needs; return its pods to be, and whether requests may wait."""
        target, memory = look.target, self._memory[look.target.key]
        extra = self._extra(look, memory)
        steps = scaling.decide(
            target, look.pods, look.wanted, look.going, extra, serves=look.serves
        )
        if not look.known:  # rather too many pods than those gone that are wanted in a moment
            count = max(steps.replicas, target.deployment.replicas)
            steps = Steps((), (), count, ())
        needed = seats.needed(look.wanted, look.pods)
        by_requests = (
            target.deployment.way is Way.KNATIVE
            and (target.reachable or look.serves)
            and not needed
            and not target.bounds.least
        )
        beyond = max(0, steps.replicas - needed)
        reason = scaling.why(look.wanted, min(extra, beyond), beyond - min(extra, beyond))
        if steps.limited != memory.limited:
            memory.limited = steps.limited
            if steps.limited:
                words = f"{reason}, {steps.limited} beyond the maximum of {target.bounds.most}"
                self._note(target, "ScaleLimited", words, warning=True)
        try:
            self._do(target, steps, reason, through_activator=by_requests)
        except (LiflError, OSError) as e:
            self._metrics.failed()
            self._complaints.say(f"{target.deployment.namespace}/{target.deployment.name}: {e}")
        return steps.replicas, by_requests

    def _extra(self, look: _Look, memory: _Memory) -> int:
        """Return how many pods without a seat are asked for."""
        deployment = look.target.deployment
        revision = deployment.namespace, deployment.labels.get(targets.REVISION, "")
        asked = int(revision in self._activator.asked_for())
        if look.known:
            if deployment.replicas > memory.replicas or memory.version < 0:  # by somebody else
                needed = seats.needed(look.wanted, look.pods)
                asked = max(asked, deployment.replicas - needed)
            memory.version = max(memory.version, deployment.version)
            memory.replicas = deployment.replicas
        idle = frozenset(p.uid for p in seats.seatless(look.pods) if not seats.marked(p))
        memory.held = scaling.hold(memory.held, asked, idle, self._clock(), self._keep_seconds)
        return memory.held.count

    # -- doing -------------------------------------------------------------------------

    def _do(self, target: Target, steps: Steps, reason: str, *, through_activator: bool) -> None:
        deployment = target.deployment
        for pod in steps.unmark:
            self._mark(pod, None)
        for pod in steps.mark:
            self._mark(pod, str(MARK))
        if target.autoscaler is None:
            if steps.replicas != deployment.replicas:
                self._scale(target, steps.replicas, reason)
        else:
            pods = Pods(deployment.replicas, deployment.ready, steps.replicas, target.bounds)
            self._knative.bring(
                target.autoscaler,
                pods,
                lambda count: self._scale(target, count, reason),
                through_activator=through_activator,
            )
        for pod in steps.delete:
            log.info("pod %s/%s makes room", pod.namespace, pod.name)
            with contextlib.suppress(Conflict):
                self._cluster.delete(POD, pod.name, pod.namespace, uid=pod.uid)

    def _mark(self, pod: PodView, cost: str | None) -> None:
        """Set or clear a pod's deletion cost, which tells its ReplicaSet that it is to go."""
        meta = {"uid": pod.uid, "annotations": {DELETION_COST: cost}}
        with contextlib.suppress(NotFound, Conflict):  # it is gone, another has its name
            self._cluster.patch(POD, pod.name, {"metadata": meta}, pod.namespace)

    def _scale(self, target: Target, replicas: int, reason: str) -> None:
        deployment, memory = target.deployment, self._memory[target.key]
        body = {"spec": {"replicas": replicas}}
        answer = self._cluster.patch(
            DEPLOYMENT, deployment.name, body, deployment.namespace, subresource="scale"
        )
        before = deployment.replicas
        memory.version, memory.replicas = targets.version_of(answer), replicas
        words = f"from {before} to {replicas}: {reason}"
        log.info("%s/%s: %s", deployment.namespace, deployment.name, words)
        self._note(target, "ScaledUp" if replicas > before else "ScaledDown", words)
        self._metrics.scaled(*target.key, UP if replicas > before else DOWN)

    # -- saying ------------------------------------------------------------------------

    def _tell_overdue(self, overdue: Sequence[Overdue], server: Target | None) -> None:
        for late in overdue:
            seat = late.seat
            words = f"{seat.name} of job {seat.job} on node {seat.node} is given up: {late.why}"
            log.warning("%s", words)
            if server is not None:
                self._note(server, "SeatGivenUp", words, warning=True)
        if overdue:
            self._metrics.given_up(len(overdue))

    def _note(self, target: Target, reason: str, words: str, *, warning: bool = False) -> None:
        self._events.append((target.deployment.about, reason, words, warning))

    def _say_events(self) -> None:
        """Write the events, when all that matters more is done."""
        events, self._events = self._events, []
        for about, reason, words, warning in events:
            self._cluster.event(about, reason, words, warning=warning)


@dataclass(frozen=True, slots=True)
class _Look:
    """One Deployment, its live pods and the seats it is to fill; not ``known``: not all seats."""

    target: Target
    pods: Sequence[PodView]
    wanted: Sequence[Seat]
    going: Set[str]
    serves: bool
    known: bool
