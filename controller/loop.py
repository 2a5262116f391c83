"""The controller's loop: look, decide, do, wait.

Why: one thread sees everything and does everything, so that no two actions race;
what fails is simply still to be done at the next look. It must not hold any
truth: all of it is at the coordinator, the agents and the platform.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from controller import reconcile
from controller.agents import Agents
from controller.coordinator import Coordinator
from controller.loop_metrics import DONE, LATER, REFUSED, LoopMetrics
from controller.reconcile import Action, Memory, Seen
from controller.settings import PolicySettings
from controller.view import NodeView
from lifl import crash
from lifl.errors import LiflError, PermanentError
from lifl.platform.api import Platform
from lifl.platform.restarts import Restarts
from lifl.platform.signals import StopSignals
from lifl.store import PoolGeometry

TICK_SECONDS = 0.25
PREFAULT_MODELS = 2

log = logging.getLogger("lifl.controller")


class Loop:
    """Brings what runs nearer to what the jobs ask for, again and again.

    ``known`` adds to nodes what the platform knows of them: capacity, room.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        agents: Agents,
        platform: Platform,
        policies: PolicySettings,
        *,
        known: Callable[[list[NodeView]], list[NodeView]] = lambda nodes: nodes,
        metrics: LoopMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._coordinator = coordinator
        self._agents = agents
        self._platform = platform
        self._policies = policies
        self._known = known
        self._metrics = metrics or LoopMetrics(CollectorRegistry())
        self._clock = clock
        self._memory = Memory()
        self._starts: dict[str, tuple[float, Restarts]] = {}
        self._not_before: dict[str, float] = {}

    def run(self, signals: StopSignals) -> None:
        """Go on until a signal asks to stop; aggregators are left running."""
        while not signals.stop_asked:
            self.step()
            self._platform.wait(signals.fileno(), TICK_SECONDS)
            signals.drain()

    def step(self) -> list[Action]:
        """Look once, do what is to be done and return what succeeded."""
        world = self._coordinator.world()
        if world is None:
            return []
        began = time.perf_counter()
        running = self._platform.running()
        self._note_deaths({a.name for a in running})
        nodes = self._known(self._agents.look(world.nodes))
        seen = Seen(world.jobs, nodes, running, self._clock(), world.leaving)
        actions = reconcile.decide(seen, self._memory, self._policies)
        done = [a for a in actions if self._try(a)]
        took = time.perf_counter() - began
        self._metrics.looked(took, world.jobs, nodes, self._policies.capacity)
        return done

    def _try(self, action: Action) -> bool:
        """Do one action; what goes wrong is logged and left for the next look."""
        kind = type(action).__name__
        try:
            done = self._do(action)
        except PermanentError as e:
            log.warning("%s was refused: %s", kind, e)
            self._metrics.acted(kind, REFUSED)
            return False
        except (LiflError, OSError) as e:
            log.info("%s is put off: %s", kind, e)
            self._metrics.acted(kind, LATER)
            return False
        if done:
            crash.point(f"did-{kind}")
            self._memory.done(action, self._clock())
            self._metrics.acted(kind, DONE)
        return done

    def _do(self, action: Action) -> bool:
        match action:
            case reconcile.CreateDomain(node, job):
                geometry = PoolGeometry(**(job.geometry or {}))
                uid = self._platform.user(job.uid)
                prefault = min(PREFAULT_MODELS, geometry.slots)
                self._agents.admin(node).create_domain(job.job, uid, geometry, prefault)
                log.info("%s: pool of %d slots on %s", job.job, geometry.slots, node)
            case reconcile.Start():
                return self._start(action)
            case reconcile.Apply(node, _, plan):
                self._agents.admin(node).apply(plan)
            case reconcile.PutPlan(plan, round_):
                self._coordinator.put_plan(plan, round_)
                log.info(
                    "%s round %d: %d aggregators on %d nodes, %d levels, epoch %d",
                    plan.job,
                    round_,
                    len(plan.roles),
                    len(plan.nodes),
                    plan.levels,
                    plan.epoch,
                )
            case reconcile.Close(node, _, job, assignment, _):
                self._agents.admin(node).close_assignment(job, assignment)
            case reconcile.End(node, job, assignment):
                self._agents.admin(node).end_assignment(job, assignment)
            case reconcile.Stop(names):
                self._platform.stop(names)
                for name in names:
                    self._starts.pop(name, None)
                    self._not_before.pop(name, None)
                log.info("stopped idle aggregators: %s", ", ".join(names))
            case reconcile.RemoveDomain(node, job):
                self._agents.admin(node).remove_domain(job)
                log.info("%s: pool on %s given back", job, node)
            case reconcile.GivenUp(job):
                self._coordinator.given_up(job)
                log.info("%s was deleted; nothing is left of it", job)
        return True

    def _start(self, action: reconcile.Start) -> bool:
        """Start an aggregator; one that keeps dying is started ever later."""
        name = action.aggregator.name
        now = self._clock()
        if now < self._not_before.get(name, 0.0):
            return False
        self._platform.start(action.aggregator, self._platform.user(action.uid))
        _, restarts = self._starts.get(name, (0.0, Restarts()))
        self._starts[name] = (now, restarts)
        self._not_before.pop(name, None)
        log.info("started %s on %s", name, action.aggregator.node)
        return True

    def _note_deaths(self, running: set[str]) -> None:
        now = self._clock()
        for name, (started, restarts) in self._starts.items():
            if name in running or name in self._not_before:
                continue
            delay = restarts.died(now - started)
            self._not_before[name] = now + delay
            self._metrics.ended()
            log.warning("%s ended; it may be started again in %.1f s", name, delay)
