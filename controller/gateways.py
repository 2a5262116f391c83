"""Sees to it that every node with an agent has a gateway, and that clients find it.

Why: on Knative the gateways' Services are made of a template (:mod:`controller.cluster.gateways`)
and each has a URL that only its status tells; on OpenFaaS there is one Deployment of as many
pods as nodes; on plain Kubernetes a DaemonSet does all. One slow thread is enough. It must
not decide.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import yaml

from controller.clients.api import Cluster, Object
from controller.clients.cache import Cache
from controller.clients.kinds import CONFIG_MAP, DEPLOYMENT, KNATIVE_SERVICE, POD, REPLICA_SET
from controller.cluster import gateways
from controller.cluster.gateways import Apply, Delete, Taken
from controller.cluster.objects import NodeObject, PodView
from controller.cluster.targets import Deployed
from controller.complaints import Complaints
from controller.coordinator import Coordinator, World
from controller.looking import Looking
from lifl.errors import ConfigError, LiflError

log = logging.getLogger("lifl.controller")

TEMPLATE = "gateway-template"
MANAGER = "lifl-controller"
PATIENCE_SECONDS = 2.0
PAUSE_SECONDS = 0.1
LOOK_SECONDS = 60.0
"""How often a cluster without Knative is asked whether it has it by now."""
AWAY_SECONDS = 60.0
"""How long a node whose agent is away counts as one that has an agent."""


@dataclass(frozen=True, slots=True)
class Template:
    """A ConfigMap that may hold the gateways' template."""

    namespace: str
    uid: str
    text: str | None

    @classmethod
    def parse(cls, raw: Object) -> Template:
        """Read a ConfigMap as the API server sends it."""
        meta = raw["metadata"]
        text = (raw.get("data") or {}).get(gateways.TEMPLATE_KEY)
        return cls(meta["namespace"], meta.get("uid", ""), text)

    def service(self) -> Mapping[str, Any]:
        """Return the Service that it describes; raises ConfigError."""
        if self.text is None:
            raise ConfigError(f"ConfigMap {TEMPLATE} has no key {gateways.TEMPLATE_KEY}")
        try:
            found = yaml.safe_load(self.text)
        except yaml.YAMLError as e:
            raise ConfigError(f"ConfigMap {TEMPLATE}, {gateways.TEMPLATE_KEY}: {e}") from e
        if not isinstance(found, dict):
            raise ConfigError(f"ConfigMap {TEMPLATE}, {gateways.TEMPLATE_KEY} is no object")
        return found


class Gateways:
    """Makes, changes and deletes gateways; start it when what it is given is known.

    ``nodes``, ``pods`` and ``deployments`` return what there is, ``agents`` the nodes whose
    agent is ready, ``namespaces`` where functions may run. ``leading`` is asked before anything
    is done.
    """

    def __init__(
        self,
        cluster: Cluster,
        coordinator: Coordinator,
        *,
        nodes: Callable[[], Iterable[NodeObject]],
        pods: Callable[[], Iterable[PodView]],
        agents: Callable[[], Set[str]],
        deployments: Callable[[], Iterable[Deployed]],
        namespaces: Callable[[], Set[str]],
        leading: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._coordinator = coordinator
        self._nodes = nodes
        self._pods = pods
        self._agents = agents
        self._deployments = deployments
        self._namespaces = namespaces
        self._leading = leading
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._complaints = Complaints(clock)
        self._next_look = clock()
        self._began = clock()
        self._services: Cache[Object] | None = None
        self._templates: Cache[Template] | None = None
        self._looking = Looking(
            "gateways",
            self.step,
            pause=lambda _took: PAUSE_SECONDS,
            patience=lambda: PATIENCE_SECONDS,
            failed=lambda e: self._complaints.say(f"gateways: {e}"),
        )
        self.wake, self.start = self._looking.wake, self._looking.start

    def stop(self) -> None:
        """End after what is under way."""
        self._looking.stop()
        for cache in (self._services, self._templates):
            if cache is not None:
                cache.stop()

    def step(self) -> None:
        """Look once and do what is to be done."""
        if not self._leading():
            return
        agents = self._with_agent()
        self._scale(agents)
        self._make_way()
        self._follow_knative()
        services = self._known(self._services)
        templates = self._known(self._templates)
        if services is None or templates is None:
            return
        self._bring(services, templates, agents)
        self._publish(services)

    def _with_agent(self) -> frozenset[str]:
        """Return the nodes with an agent; one that is replaced does not count as gone."""
        now = self._clock()
        names = {n.name for n in self._nodes()}
        self._seen |= dict.fromkeys(self._agents(), now)
        self._seen = {
            n: at for n, at in self._seen.items() if n in names and now - at < AWAY_SECONDS
        }
        return frozenset(self._seen)

    def _scale(self, agents: Set[str]) -> None:
        """Give OpenFaaS's gateways as many pods as there are nodes."""
        for deployment in self._deployments():
            if deployment.namespace not in self._namespaces():
                continue
            count = gateways.replicas(deployment, len(agents))
            if count is None or count == deployment.replicas:
                continue
            if count < deployment.replicas and self._clock() - self._began < AWAY_SECONDS:
                continue  # agents that are being replaced have not been seen yet
            name, namespace = deployment.name, deployment.namespace
            body = {"spec": {"replicas": count}}
            self._cluster.patch(DEPLOYMENT, name, body, namespace, subresource="scale")
            words = f"from {deployment.replicas} to {count}: {len(agents)} nodes have an agent"
            log.info("%s/%s: %s", namespace, name, words)
            reason = "ScaledUp" if count > deployment.replicas else "ScaledDown"
            self._cluster.event(deployment.about, reason, words)

    def _make_way(self) -> None:
        """End an old gateway whose successor waits for its node."""
        hostnames = {n.name: n.labels.get(gateways.HOSTNAME, n.name) for n in self._nodes()}
        for pod, waiting in gateways.handovers(self._pods(), hostnames, time.time()):
            if 0 < self._revision(pod) < self._revision(waiting):
                log.info("gateway %s/%s makes way for %s", pod.namespace, pod.name, waiting.name)
                self._cluster.delete(POD, pod.name, pod.namespace, uid=pod.uid)
                return

    def _revision(self, pod: PodView) -> int:
        found = gateways.revision(pod)
        if found or pod.owner is None or pod.owner.kind != REPLICA_SET.kind:
            return found
        return gateways.revision(
            pod, self._cluster.find(REPLICA_SET, pod.owner.name, pod.namespace)
        )

    # -- Knative -----------------------------------------------------------------------

    def _follow_knative(self) -> None:
        if self._services is not None or self._clock() < self._next_look:
            return
        self._next_look = self._clock() + LOOK_SECONDS
        if not self._cluster.serves(KNATIVE_SERVICE):
            return
        self._services = Cache(self._cluster, KNATIVE_SERVICE, _whole, on_change=self.wake)
        self._templates = Cache(
            self._cluster,
            CONFIG_MAP,
            Template.parse,
            fields=f"metadata.name={TEMPLATE}",
            on_change=self.wake,
        )
        self._services.start()
        self._templates.start()

    @staticmethod
    def _known(cache: Cache[Any] | None) -> list[Any] | None:
        return cache.values() if cache is not None and cache.wait(0) else None

    def _bring(self, services: list[Object], templates: list[Template], agents: Set[str]) -> None:
        """Make the Services of every namespace that functions may run in, of one template."""
        allowed = self._namespaces()
        usable = sorted((t for t in templates if t.namespace in allowed), key=lambda t: t.namespace)
        if len(usable) > 1:
            self._complaints.say(
                f"ConfigMap {TEMPLATE} is in {', '.join(t.namespace for t in usable)}: a node has "
                f"one gateway, so that of {usable[0].namespace} is used; delete the others"
            )
        homes = {s["metadata"]["namespace"] for s in services if gateways.node_of(s)}
        nodes = {n.name: n.labels.get(gateways.HOSTNAME, n.name) for n in self._nodes()}
        for namespace in sorted(homes | {t.namespace for t in usable[:1]}):
            template = next((t for t in usable[:1] if t.namespace == namespace), None)
            here = [s for s in services if s["metadata"]["namespace"] == namespace]
            try:
                parsed = template.service() if template is not None else None
                found = gateways.decide(parsed, agents, nodes, here, namespace)
            except ConfigError as e:
                self._refuse(template, str(e))
                continue
            for instruction in found:
                self._do(instruction, namespace)

    def _do(self, instruction: gateways.Instruction, namespace: str) -> None:
        try:
            match instruction:
                case Apply(body):
                    name = body["metadata"]["name"]
                    self._cluster.patch(KNATIVE_SERVICE, name, body, namespace, server_side=MANAGER)
                    log.info("Service %s/%s is as the template says", namespace, name)
                case Delete(name, uid):
                    self._cluster.delete(KNATIVE_SERVICE, name, namespace, uid=uid)
                    log.info("Service %s/%s is deleted: its node is gone", namespace, name)
                case Taken(name, node):
                    self._complaints.say(
                        f"node {node} gets no gateway: there is a Service {namespace}/{name} that "
                        "this controller did not make; delete it or call it otherwise"
                    )
        except LiflError as e:  # the others are to be done all the same
            self._complaints.say(f"gateways in {namespace}: {e}")

    def _refuse(self, template: Template | None, words: str) -> None:
        if self._complaints.say(words) and template is not None:
            about = {"apiVersion": "v1", "kind": "ConfigMap", "name": TEMPLATE}
            about |= {"namespace": template.namespace, "uid": template.uid}
            self._cluster.event(about, "InvalidTemplate", words, warning=True)

    def _publish(self, services: list[Object]) -> None:
        """Tell the coordinator where clients reach the gateways, when it does not know."""
        world: World | None = self._coordinator.world()
        if world is None:
            return
        urls = {gateways.node_of(s): gateways.public_url(s) for s in services}
        for node in world.nodes:
            url = urls.get(node)
            if url and world.public.get(node) != url:
                self._coordinator.publish(node, url)


def _whole(raw: Object) -> Object:
    raw["metadata"].pop("managedFields", None)
    return raw
