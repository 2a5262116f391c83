"""What only the leader of a cluster's controllers runs, from start to end.

Why: the order matters. Copies of the cluster come first, then those who decide on them;
the loop that plans runs in the caller's thread, and everything ends in the opposite order
before the lease is given up. It must not decide anything.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from controller.agent_pods import AgentPods, Credentials
from controller.agents import Agents
from controller.autoscaler import Autoscaler
from controller.autoscaler_metrics import AutoscalerMetrics
from controller.clients.activator import LABELS as ACTIVATORS
from controller.clients.activator import NAMESPACE as KNATIVE
from controller.clients.activator import Activator, place
from controller.clients.api import Cluster, Object
from controller.clients.cache import Cache
from controller.clients.kinds import DEPLOYMENT, NAMESPACE, NODE, POD
from controller.cluster import rooms
from controller.cluster.capacity import NodeCapacity
from controller.cluster.objects import NodeObject, PodView, node_object, pod_view
from controller.cluster.targets import Deployed
from controller.cluster_settings import ClusterSettings
from controller.coordinator import Coordinator, World
from controller.gateways import Gateways
from controller.loads import Loads
from controller.loop import Loop
from controller.loop_metrics import LoopMetrics
from controller.platform import ClusterPlatform
from controller.scheduler import Scheduler
from controller.scheduler_metrics import SchedulerMetrics
from controller.view import NodeView
from lifl.auth import mint_registration_token
from lifl.errors import Unavailable
from lifl.naming import LABEL_NAMESPACE
from lifl.platform.signals import StopSignals

log = logging.getLogger("lifl.controller")

FIRST_LIST_SECONDS = 60.0


class Part(Protocol):
    """Something that runs in threads of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End; no thread is left."""


class Leader:
    """Everything that decides; ``extra`` parts start last and end first.

    ``leading`` is asked before anything is done to the cluster.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: ClusterSettings,
        credentials: Callable[[], Credentials],
        *,
        metrics: tuple[SchedulerMetrics, AutoscalerMetrics, LoopMetrics],
        leading: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._metrics = metrics[2]
        self._on_change = on_change
        self._listeners: list[Callable[[World], None]] = []
        self.coordinator = Coordinator(
            settings.coordinator_url, settings.platform_secret, self._told
        )
        self._pods = Cache(cluster, POD, pod_view, on_change=self._pods_changed)
        self._nodes = Cache(cluster, NODE, _node, on_change=self._nodes_changed)
        self._namespaces = Cache(
            cluster, NAMESPACE, _name, labels=f"{LABEL_NAMESPACE}=enabled", on_change=self._wake
        )
        self._deployments = Cache(cluster, DEPLOYMENT, Deployed.parse, on_change=self._wake)
        self._activators = Cache(cluster, POD, place, namespace=KNATIVE, labels=ACTIVATORS)
        self._agent_pods = AgentPods(
            cluster,
            settings.namespace,
            credentials,
            port=settings.agent_port,
            on_change=self._wake,
        )
        self.platform = ClusterPlatform(
            self._pods.values,
            on_wanted=self._wake,
            seat_seconds=settings.seat_seconds,
        )
        policies = settings.policies
        self._activator = Activator(self._activator_urls, on_change=self._wake)
        self._scheduler = Scheduler(
            cluster,
            pods=self._pods.values,
            nodes=self._node_objects,
            seats=self.platform.wanted,
            agents=self._agent_pods.nodes,
            namespaces=self._function_namespaces,
            mint=self._mint,
            metrics=metrics[0],
            leading=leading,
        )
        self._autoscaler = Autoscaler(
            cluster,
            self.platform,
            deployments=self._deployments.values,
            pods=self._pods.values,
            namespaces=self._function_namespaces,
            activator=self._activator,
            metrics=metrics[1],
            keep_seconds=policies.keep_seconds,
            leading=leading,
        )
        self._gateways = Gateways(
            cluster,
            self.coordinator,
            nodes=self._node_objects,
            agents=self._agent_pods.nodes,
            pods=self._pods.values,
            deployments=self._deployments.values,
            namespaces=self._function_namespaces,
            leading=leading,
        )
        self._loads = Loads(alpha=policies.alpha, period=policies.estimate_seconds)

    def tell(self, listener: Callable[[World], None]) -> None:
        """Call ``listener``, in the watching thread, with what the coordinator tells."""
        self._listeners.append(listener)

    def _told(self) -> None:
        world = self.coordinator.world()
        if world is not None:
            for listener in self._listeners:
                listener(world)
        self._gateways.wake()
        self._on_change()

    # -- life ---------------------------------------------------------------------------

    def run(self, signals: StopSignals, *extra: Part) -> None:
        """Serve until a signal asks to stop.

        Raises
        ------
        Unavailable
            if the API server does not tell what there is within a minute.
        """
        caches = (
            self._pods,
            self._nodes,
            self._namespaces,
            self._deployments,
            self._activators,
            self._agent_pods.cache,
        )
        with contextlib.ExitStack() as ending:
            ending.callback(self.platform.close)
            ending.callback(self.coordinator.close)
            for cache in caches:
                cache.start()
                ending.callback(cache.stop)
            for cache in caches:
                if not cache.wait(FIRST_LIST_SECONDS):
                    raise Unavailable("the API server does not tell what there is")
            agents = Agents(self._agent_pods, self._loads)
            ending.callback(agents.close)
            self.coordinator.start()
            parts: list[Part] = [self._activator, self._scheduler, self._autoscaler, self._gateways]
            for part in [*parts, *extra]:
                part.start()
                ending.callback(part.stop)
            policies = self._settings.policies
            loop = Loop(
                self.coordinator,
                agents,
                self.platform,
                policies,
                known=self._known,
                metrics=self._metrics,
            )
            loop.run(signals)

    # -- what changes -------------------------------------------------------------------

    def _pods_changed(self) -> None:
        self.platform.notify()
        self._wake()

    def _nodes_changed(self) -> None:
        self._scheduler.wake()
        self._gateways.wake()

    def _wake(self) -> None:
        self._scheduler.wake()
        self._autoscaler.wake()
        self._gateways.wake()

    # -- what there is ------------------------------------------------------------------

    def _node_objects(self) -> list[NodeObject]:
        return [node for node, _ in self._nodes.values()]

    def _function_namespaces(self) -> frozenset[str]:
        return frozenset(self._namespaces.values())

    def _activator_urls(self) -> list[str]:
        if self._settings.activator_url:
            return [self._settings.activator_url]
        return [url for url in self._activators.values() if url]

    def _mint(self, pod_uid: str, kind: str, name: str, job: str) -> str:
        secret = self._settings.platform_secret
        return mint_registration_token(secret, pod_uid, kind=kind, name=name, job=job)

    def _known(self, views: list[NodeView]) -> list[NodeView]:
        """Add what Kubernetes knows of the nodes."""
        pods: dict[str, list[PodView]] = {}
        for pod in self._pods.values():  # once for all nodes: there may be a thousand
            pods.setdefault(pod.node, []).append(pod)
        full = self.platform.full_nodes()
        return [self._with_room(view, pods.get(view.name, []), full) for view in views]

    def _with_room(self, view: NodeView, pods: list[PodView], full: frozenset[str]) -> NodeView:
        found = self._nodes.get(view.name)
        if found is None:
            return view
        node, capacity = found
        room = rooms.aggregators([node], pods, full=full)
        return replace(
            view, capacity=capacity, room=room[view.name], processors=rooms.processors(node)
        )


def _node(raw: Object) -> tuple[NodeObject, float | None]:
    return node_object(raw), NodeCapacity.parse(raw).updates


def _name(raw: Object) -> str:
    return str(raw["metadata"]["name"])
