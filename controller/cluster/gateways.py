"""One gateway for each node: the Knative Services that the controller makes, and which to make.

Why: clients must reach the node that placement chose, and on Knative a Service is what has a
URL; so there is one per node, made of a template that people can read and change. It must
not do I/O.

The template is a ``serving.knative.dev/v1`` Service; of it are set: name, namespace, the label
``lifl.dev/gateway-of`` (and an annotation of that name, where a long node name is whole), the
node selector ``kubernetes.io/hostname``. The variable LIFL_GATEWAY_URL is taken out: gateways reach
each other by their pods' addresses, which the webhook gives them, and pass no ingress and no proxy.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.cluster.objects import PodView
from controller.cluster.seats import GATEWAY
from controller.cluster.targets import (
    OPENFAAS_MAX,
    OPENFAAS_MIN,
    Deployed,
    Way,
    condition,
    number,
)
from lifl.errors import ConfigError
from lifl.naming import LABEL_FUNCTION, LABEL_GATEWAY_OF, SCHEDULER

Raw = Mapping[str, Any]
Service = dict[str, Any]

HOSTNAME = "kubernetes.io/hostname"
ANNOTATION_RENDERED = "lifl.dev/rendered"
"""What the Service was made of, as a digest: it is made anew when that changes."""
TEMPLATE_KEY = "service.yaml"
LONGEST_NAME = 46
"""So that what Knative appends for a revision's parts (-00001-deployment) makes a label still."""
LONGEST_LABEL = 63
DIGEST = 8
WAIT_SECONDS = 3.0
"""How long a gateway waits for a node that may become free by itself."""
_REVISION = re.compile(r"-([0-9]{5,})-deployment\Z")


@dataclass(frozen=True, slots=True)
class Apply:
    """Make a Service, or make it what it should be."""

    body: Raw


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a Service whose node is gone."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A Service of this name is there that the controller did not make: leave it alone."""

    name: str
    node: str


Instruction = Apply | Delete | Taken


def service_name(node: str) -> str:
    """Return the name of a node's gateway: a DNS label that no other node's has.

    ``gateway-NODE`` where that is one and short enough, else its beginning and a digest.
    """
    plain = f"gateway-{node}"
    if len(plain) <= LONGEST_NAME and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", node):
        return plain
    safe = re.sub(r"[^a-z0-9]+", "-", plain.lower())[: LONGEST_NAME - DIGEST - 1].strip("-")
    return f"{safe}-{_digest(node)}"


def render(template: Raw, node: str, hostname: str, namespace: str) -> Service:
    """Return the Service of one node.

    ``hostname`` is the node's label of that name, by which the selector finds it.

    Raises
    ------
    ConfigError
        if the template is no Knative Service of a gateway.
    """
    body = copy.deepcopy(dict(template))
    try:
        pod = body["spec"]["template"]
        function = pod["metadata"]["labels"].get(LABEL_FUNCTION)
        container = pod["spec"]["containers"][0]
    except (KeyError, IndexError, TypeError, AttributeError) as e:
        raise ConfigError(
            f"the gateway template lacks {e}: it must be a serving.knative.dev/v1 Service with "
            "spec.template.metadata.labels and spec.template.spec.containers"
        ) from None
    if body.get("kind") != "Service" or function != GATEWAY:
        raise ConfigError(
            "the gateway template must be a Service whose spec.template.metadata.labels have "
            f"{LABEL_FUNCTION}: {GATEWAY}"
        )
    pod["spec"]["nodeSelector"] = {**(pod["spec"].get("nodeSelector") or {}), HOSTNAME: hostname}
    env = container.get("env") or ()
    container["env"] = [e for e in env if e.get("name") != "LIFL_GATEWAY_URL"]
    meta = body.get("metadata") or {}
    body["metadata"] = {
        "name": service_name(node),
        "namespace": namespace,
        "labels": {**(meta.get("labels") or {}), LABEL_GATEWAY_OF: _label(node)},
        "annotations": {**(meta.get("annotations") or {}), LABEL_GATEWAY_OF: node},
    }
    body.pop("status", None)
    body["metadata"]["annotations"][ANNOTATION_RENDERED] = _digest(
        json.dumps(body, sort_keys=True), 32
    )
    return body


def decide(
    template: Raw | None,
    agents: Iterable[str],
    nodes: Mapping[str, str],
    services: Sequence[Raw],
    namespace: str,
) -> list[Instruction]:
    """Return what is to be done in ``namespace``; nothing once it is done.

    ``agents`` are the nodes with an agent, ``nodes`` all nodes with their host name label,
    ``services`` all Knative Services there. A gateway stays while its node's object is there,
    with or without an agent; without a template none is made or changed.

    Raises
    ------
    ConfigError
        if the template is unusable.
    """
    by_name = {s["metadata"]["name"]: s for s in services}
    found: list[Instruction] = []
    ours = {node_of(s) for s in services} - {""}
    for node in sorted(set(agents) | ours):
        if template is None or node not in nodes:
            continue
        body = render(template, node, nodes[node], namespace)
        there = by_name.get(body["metadata"]["name"])
        if there is not None and node_of(there) != node:
            found.append(Taken(body["metadata"]["name"], node))
        elif there is None or _rendered(there) != _rendered(body):
            found.append(Apply(body))
    for service in services:
        node = node_of(service)
        if node and node not in nodes and not service["metadata"].get("deletionTimestamp"):
            found.append(Delete(service["metadata"]["name"], service["metadata"]["uid"]))
    return found


def node_of(service: Raw) -> str:
    """Return the node whose gateway a Service is, "" if it is none that the controller made."""
    meta = service["metadata"]
    if LABEL_GATEWAY_OF not in (meta.get("labels") or {}):
        return ""
    return str((meta.get("annotations") or {}).get(LABEL_GATEWAY_OF, ""))


def public_url(service: Raw) -> str:
    """Return where clients reach a gateway's Service, "" before its routes are ready."""
    status = service.get("status") or {}
    ready = condition(status, "RoutesReady").get("status") == "True"
    return str(status.get("url") or "").rstrip("/") if ready else ""


def replicas(deployment: Deployed, agents: int) -> int | None:
    """Return how many pods a gateway's Deployment should have; None to leave it alone.

    On OpenFaaS one for each node with an agent, between ``com.openfaas.scale.min`` and ``.max``:
    the scheduler puts them on different nodes. A plain Kubernetes has a DaemonSet instead.
    """
    if deployment.function != GATEWAY or deployment.way is not Way.OPENFAAS:
        return None
    most = number(deployment.labels.get(OPENFAAS_MAX)) or agents
    return max(min(agents, most), number(deployment.labels.get(OPENFAAS_MIN)) or 1)


def handovers(
    pods: Iterable[PodView], hostnames: Mapping[str, str], now: float
) -> list[tuple[PodView, PodView]]:
    """Return gateways that may have to end, each with one of another version that waits for it.

    A node has one gateway; but Knative and Deployments end the old one only when the new one
    is ready. ``hostnames`` are the nodes' labels of that name, ``now`` is in seconds since
    1970. One after the other: none while one is going, or is not ready (as of a new version
    that does not work). Who is the newer is told by :func:`revision`.
    """
    known = [p for p in pods if p.function == GATEWAY and p.scheduler_name == SCHEDULER]
    bound = [p for p in known if p.node and not p.ended]
    if any(p.deleting or not p.ready for p in bound):
        return []
    waiting = [p for p in known if p.live and not p.node and now - p.created > WAIT_SECONDS]
    return [
        (pod, successor)
        for successor in sorted(waiting, key=lambda p: (p.created, p.name))
        for pod in sorted(bound, key=lambda p: (p.created, p.name))
        if dict(successor.node_selector).get(HOSTNAME) in (None, hostnames.get(pod.node))
        and pod.owner != successor.owner
        and _family(pod) == _family(successor)
    ]


def revision(pod: PodView, replica_set: Raw | None = None) -> int:
    """Return which version of its Service or Deployment a gateway is.

    Knative puts it into names; of a Deployment's it is noted at its ReplicaSet. 0: unknown.
    """
    found = _REVISION.search(_deployment(pod))
    if found is not None:
        return int(found[1])
    notes = ((replica_set or {}).get("metadata") or {}).get("annotations") or {}
    return number(notes.get("deployment.kubernetes.io/revision")) or 0


def _deployment(pod: PodView) -> str:
    return pod.owner.name.rpartition("-")[0] if pod.owner is not None else ""


def _family(pod: PodView) -> tuple[str, str]:
    """Return what two versions of a gateway have in common: the Service or the Deployment."""
    return pod.namespace, _REVISION.sub("", _deployment(pod))


def _rendered(service: Raw) -> str:
    return str((service["metadata"].get("annotations") or {}).get(ANNOTATION_RENDERED, ""))


def _label(node: str) -> str:
    return node if len(node) <= LONGEST_LABEL else service_name(node)


def _digest(text: str, length: int = DIGEST) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
