"""Pods and nodes as small values: what decisions need of the API server's objects.

Why: a cluster's pods are all kept in memory, ten thousand of them and more, because each
takes room on its node; so a view has slots, and what many pods have alike (requests,
tolerations, owner) is one object that they share. It must not do I/O, nor decide.
"""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from sys import intern
from typing import Any, TypeVar, cast

from controller.cluster.resources import Resources, pod_requests, quantity
from lifl.naming import ANNOTATION_JOB, ANNOTATION_NAME, LABEL_FUNCTION

__all__ = ["NodeObject", "PodView", "Resources", "node_object", "pod_view", "quantity"]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation; of the pods that may go, a ReplicaSet ends those with the lowest number first."""

H = TypeVar("H", bound=Hashable)
Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller of a pod, such as a ReplicaSet."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps pods off a node unless they tolerate it."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Toleration:
    """Taints that a pod does not mind; empty ``key`` or ``effect`` means any."""

    key: str
    operator: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a node's label or field, such as ``zone In (a, b)``."""

    key: str
    operator: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Term:
    """Conditions that must all hold; one without any holds nowhere."""

    labels: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]


ONE_POD = Resources(pods=1)
"""What a pod that asks for nothing takes."""

Port = tuple[str, str, int]
"""Protocol, address ("" for all) and number of a port that a pod takes on its host."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod.

    ``seat`` and ``job`` are what it was given when it was bound, "" before. ``gates`` are its
    scheduling gates, ``affinity`` the required node affinity (any one term; None: no
    condition), ``claims`` the volume claims it mounts, ``unsupported`` the conditions it sets
    that :mod:`controller.cluster.fit` cannot judge. ``created`` is in seconds since 1970.
    """

    namespace: str
    name: str
    uid: str
    node: str = ""
    phase: str = "Pending"
    scheduler_name: str = ""
    function: str = ""
    job: str = ""
    seat: str = ""
    owner: Owner | None = None
    deleting: bool = False
    ready: bool = False
    gates: tuple[str, ...] = ()
    requests: Resources = ONE_POD
    node_selector: tuple[tuple[str, str], ...] = ()
    affinity: tuple[Term, ...] | None = None
    tolerations: tuple[Toleration, ...] = ()
    host_ports: tuple[Port, ...] = ()
    claims: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    priority: int = 0
    deletion_cost: int = 0
    ip: str = ""
    created: float = 0.0

    @property
    def ended(self) -> bool:
        """Say whether it has run to its end; its node's room is free again."""
        return self.phase in _ENDED

    @property
    def live(self) -> bool:
        """Say whether it runs, or will, and nobody asked it to go."""
        return not self.deleting and self.phase not in _ENDED


_ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class NodeObject:
    """One node; ``allocatable`` is what all its pods together may ask for."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    unschedulable: bool
    ready: bool
    allocatable: Resources


@lru_cache(8192)
def _first(value: Hashable) -> Hashable:
    return value


def _shared(value: H) -> H:
    """Return the first of equal values."""
    return cast(H, _first(value))


def pod_view(raw: Raw) -> PodView:
    """Read a pod as the API server sends it; raises ValueError, KeyError or TypeError."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    notes = metadata.get("annotations") or {}
    return PodView(
        namespace=intern(metadata.get("namespace", "")),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        node=intern(spec.get("nodeName") or ""),
        phase=intern(status.get("phase") or "Pending"),
        scheduler_name=intern(spec.get("schedulerName") or ""),
        function=intern((metadata.get("labels") or {}).get(LABEL_FUNCTION, "")),
        job=intern(notes.get(ANNOTATION_JOB, "")),
        seat=notes.get(ANNOTATION_NAME, ""),
        owner=_owner(metadata),
        deleting=bool(metadata.get("deletionTimestamp")),
        ready=_condition(status, "Ready"),
        gates=_shared(tuple(g["name"] for g in spec.get("schedulingGates") or ())),
        requests=_shared(pod_requests(spec, status)),
        node_selector=_shared(tuple(sorted((spec.get("nodeSelector") or {}).items()))),
        affinity=_shared(_node_affinity(spec)),
        tolerations=_shared(tuple(_toleration(t) for t in spec.get("tolerations") or ())),
        host_ports=_shared(tuple(_host_ports(spec))),
        claims=_shared(tuple(_claims(spec, metadata["name"]))),
        unsupported=_shared(tuple(_unsupported(spec))),
        priority=int(spec.get("priority") or 0),
        deletion_cost=_number(notes.get(DELETION_COST)),
        ip=status.get("podIP") or "",
        created=_seconds(metadata.get("creationTimestamp")),
    )


def node_object(raw: Raw) -> NodeObject:
    """Read a node as the API server sends it; raises ValueError, KeyError or TypeError."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    taints = tuple(
        Taint(t["key"], t.get("value") or "", t["effect"]) for t in spec.get("taints") or ()
    )
    return NodeObject(
        name=intern(metadata["name"]),
        labels={intern(k): v for k, v in (metadata.get("labels") or {}).items()},
        taints=_shared(taints),
        unschedulable=bool(spec.get("unschedulable")),
        ready=_condition(status, "Ready"),
        allocatable=_shared(Resources.parse(status.get("allocatable"))),
    )


def node_terms(raw: Raw | None) -> tuple[Term, ...] | None:
    """Read a node selector (as in node affinity, or a volume's); None if there is none."""
    return None if raw is None else tuple(_term(t) for t in raw.get("nodeSelectorTerms") or ())


def _owner(metadata: Raw) -> Owner | None:
    for o in metadata.get("ownerReferences") or ():
        if o.get("controller"):
            return _shared(Owner(o["kind"], o["name"], o["uid"]))
    return None


def _condition(status: Raw, type_: str) -> bool:
    return any(c["type"] == type_ and c["status"] == "True" for c in status.get("conditions") or ())


def _node_affinity(spec: Raw) -> tuple[Term, ...] | None:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    return node_terms(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))


def _term(raw: Raw) -> Term:
    return Term(
        tuple(_requirement(r) for r in raw.get("matchExpressions") or ()),
        tuple(_requirement(r) for r in raw.get("matchFields") or ()),
    )


def _requirement(raw: Raw) -> Requirement:
    return Requirement(raw["key"], raw["operator"], tuple(raw.get("values") or ()))


def _toleration(raw: Raw) -> Toleration:
    return Toleration(
        raw.get("key") or "",
        raw.get("operator") or "Equal",
        raw.get("value") or "",
        raw.get("effect") or "",
    )


def _host_ports(spec: Raw) -> Iterator[Port]:
    staying = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *staying]:
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                address = port.get("hostIP") or ""
                yield (
                    port.get("protocol") or "TCP",
                    "" if address in ("0.0.0.0", "::") else address,
                    int(port["hostPort"]),
                )


def _claims(spec: Raw, pod: str) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        if volume.get("persistentVolumeClaim"):
            yield volume["persistentVolumeClaim"]["claimName"]
        elif volume.get("ephemeral"):
            yield f"{pod}-{volume['name']}"


def _unsupported(spec: Raw) -> Iterator[str]:
    affinity = spec.get("affinity") or {}
    for key, words in (("podAffinity", "pod affinity"), ("podAntiAffinity", "pod anti-affinity")):
        if (affinity.get(key) or {}).get("requiredDuringSchedulingIgnoredDuringExecution"):
            yield f"required {words}"
    for spread in spec.get("topologySpreadConstraints") or ():
        if spread.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule":
            yield "topology spread (DoNotSchedule)"
            break
    if spec.get("resourceClaims"):
        yield "resource claims"


def _number(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:  # the API server does not check annotations
        return 0


def _seconds(stamp: str | None) -> float:
    return datetime.datetime.fromisoformat(stamp).timestamp() if stamp else 0.0
