"""Which Deployments the autoscaler scales, and between which bounds.

Why: the same aggregator function may come as a Knative Service, an OpenFaaS function or a
plain Deployment; each platform says in its own words how many pods there may be. It must
not do I/O, nor decide how many are wanted.

Who scales what, of the Deployments in function namespaces whose pod template is an aggregator:

    Knative revision, class hierarchy.lifl.dev, reachable     this autoscaler
    Knative revision, class hierarchy.lifl.dev, Unreachable   this autoscaler: to zero, its pods
                                                              would stay otherwise
    Knative revision, another class                           that class's autoscaler
    OpenFaaS function, plain Deployment                       this autoscaler

Bounds:

    Knative    annotations autoscaling.knative.dev/min-scale (only while reachable), max-scale and
               initial-scale (1 if it does not say; until the revision was up once)
    OpenFaaS   labels com.openfaas.scale.min (1 if it does not say, as OpenFaaS has it) and
               com.openfaas.scale.max. The Community Edition refuses its own labels for scaling to
               zero, so the label lifl.dev/scale-to-zero: "true" makes the minimum 0
    plain      labels lifl.dev/min-scale (0) and lifl.dev/max-scale

Labels may be on the Deployment or on its pod template, where OpenFaaS puts them.

No maximum, or 0, is no bound. A value that is no number is as if it were not there.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.cluster.objects import PodView
from lifl.naming import AUTOSCALER_CLASS, LABEL_FUNCTION

Raw = Mapping[str, Any]

AUTOSCALING = "autoscaling.knative.dev"
REVISION = "serving.knative.dev/revision"
"""Label of what Knative makes for a revision: its Deployment, PodAutoscaler, pods."""
OPENFAAS_FUNCTION = "faas_function"
OPENFAAS_MIN, OPENFAAS_MAX = "com.openfaas.scale.min", "com.openfaas.scale.max"
LABEL_MIN, LABEL_MAX = "lifl.dev/min-scale", "lifl.dev/max-scale"
LABEL_ZERO = "lifl.dev/scale-to-zero"
UNREACHABLE = "Unreachable"


class Way(enum.Enum):
    """Who made a Deployment."""

    KNATIVE = "Knative"
    OPENFAAS = "OpenFaaS"
    PLAIN = "Kubernetes"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many pods there may be; ``initial`` is how many there must have been once."""

    least: int = 0
    most: int | None = None
    initial: int = 0

    def clamp(self, wanted: int, *, initialized: bool = True) -> int:
        """Return the number within the bounds that is nearest to ``wanted``."""
        least = self.least if initialized else max(self.least, self.initial)
        within = max(wanted, least)
        return within if self.most is None else min(within, self.most)


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is needed of a Deployment; ``function`` is "" if it is not one of LIFL's.

    ``labels`` are the labels of the pod template and over them those of the object;
    ``created`` is in seconds since 1970, ``replicas`` the number asked for, ``version`` the
    number of the object's last change.
    """

    namespace: str
    name: str
    uid: str
    function: str
    replicas: int
    ready: int
    labels: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0
    version: int = 0

    @classmethod
    def parse(cls, raw: Raw) -> Deployed:
        """Read a Deployment as the API server sends it."""
        meta, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
        labels = ((spec["template"].get("metadata") or {}).get("labels")) or {}
        function = labels.get(LABEL_FUNCTION, "")
        return cls(
            namespace=meta.get("namespace", ""),
            name=meta["name"],
            uid=meta.get("uid", ""),
            function=function,
            replicas=int(spec.get("replicas", 1)),
            ready=int(status.get("readyReplicas") or 0),
            labels={**labels, **(meta.get("labels") or {})} if function else {},
            created=_seconds(meta.get("creationTimestamp")),
            version=version_of(raw),
        )

    @property
    def way(self) -> Way:
        """Return who made it."""
        if REVISION in self.labels:
            return Way.KNATIVE
        return Way.OPENFAAS if OPENFAAS_FUNCTION in self.labels else Way.PLAIN

    @property
    def about(self) -> dict[str, str]:
        """Return what an event at it refers to."""
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": self.name,
            "namespace": self.namespace,
            "uid": self.uid,
        }

    def owns(self, pod: PodView) -> bool:
        """Say whether a pod is one of its replicas (ReplicaSets are named after it)."""
        if pod.owner is None or pod.namespace != self.namespace:
            return False
        if pod.owner.kind == "ReplicaSet":
            return pod.owner.name.rpartition("-")[0] == self.name
        return pod.owner.uid == self.uid


@dataclass(frozen=True, slots=True)
class Target:
    """A Deployment that this autoscaler scales.

    ``autoscaler`` is its PodAutoscaler (Knative only), ``reachable`` whether that is not said
    to be unreachable, ``initialized`` whether it was up once.
    """

    deployment: Deployed
    bounds: Bounds
    autoscaler: Raw | None = None
    reachable: bool = True
    initialized: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """Return namespace and name."""
        return self.deployment.namespace, self.deployment.name

    def clamp(self, wanted: int) -> int:
        """Return the number within the bounds that is nearest to ``wanted``."""
        need_not_come_up = self.initialized or not self.reachable
        return self.bounds.clamp(wanted, initialized=need_not_come_up)


def find(
    deployments: Iterable[Deployed], autoscalers: Iterable[Raw], namespaces: Collection[str]
) -> list[Target]:
    """Return the aggregators' Deployments that are this autoscaler's, by namespace and name.

    A Knative Deployment whose PodAutoscaler is not seen (yet) is left alone.
    """
    by_target = {(_namespace(a), a["spec"]["scaleTargetRef"]["name"]): a for a in autoscalers}
    found = []
    for deployment in deployments:
        if deployment.function != "aggregator" or deployment.namespace not in namespaces:
            continue
        if deployment.way is not Way.KNATIVE:
            found.append(Target(deployment, _labelled(deployment)))
            continue
        autoscaler = by_target.get((deployment.namespace, deployment.name))
        if autoscaler is not None and is_ours(autoscaler):
            found.append(_revision(deployment, autoscaler))
    return sorted(found, key=lambda t: t.key)


def serving(targets: Iterable[Target]) -> Target | None:
    """Return the one that takes the seats, and serves requests even if it is unreachable.

    One that is reachable, then one that was up before, then the newest: so a new revision takes
    over once it is there, and a broken one never does. One that failed while it is the only
    one is called unreachable too; it must have the chance to come up again.
    """
    return max(
        targets,
        key=lambda t: (t.reachable, t.initialized, t.deployment.created, t.deployment.name),
        default=None,
    )


def is_ours(autoscaler: Raw) -> bool:
    """Say whether a PodAutoscaler is of LIFL's class."""
    notes = autoscaler["metadata"].get("annotations") or {}
    return bool(notes.get(f"{AUTOSCALING}/class") == AUTOSCALER_CLASS)


def version_of(raw: Raw) -> int:
    """Return the number of an object's last change, 0 if the API server does not count."""
    version = str(raw["metadata"].get("resourceVersion") or "")
    return int(version) if version.isdecimal() else 0


def condition(status: Raw | None, type_: str) -> Raw:
    """Return a condition of a status, empty if it is not there."""
    found = ((status or {}).get("conditions")) or ()
    return next((c for c in found if c["type"] == type_), {})


def _revision(deployment: Deployed, autoscaler: Raw) -> Target:
    reachable = autoscaler["spec"].get("reachability") != UNREACHABLE
    notes = autoscaler["metadata"].get("annotations") or {}
    most = _annotated(notes, "max-scale", "maxScale")
    initial = _annotated(notes, "initial-scale", "initialScale")
    bounds = Bounds(
        least=(_annotated(notes, "min-scale", "minScale") or 0) if reachable else 0,
        most=most or None,
        initial=1 if initial is None else initial,
    )
    initialized = condition(autoscaler.get("status"), "ScaleTargetInitialized")
    return Target(
        deployment,
        bounds,
        autoscaler,
        reachable=reachable,
        initialized=initialized.get("status") == "True",
    )


def _labelled(deployment: Deployed) -> Bounds:
    labels = deployment.labels
    if deployment.way is Way.PLAIN:
        return Bounds(number(labels.get(LABEL_MIN)) or 0, number(labels.get(LABEL_MAX)) or None)
    least = number(labels.get(OPENFAAS_MIN)) or 1
    if least == 1 and labels.get(LABEL_ZERO) == "true":
        least = 0
    return Bounds(least, number(labels.get(OPENFAAS_MAX)) or None)


def _annotated(notes: Mapping[str, str], *keys: str) -> int | None:
    """Return the value of the first of Knative's spellings of an annotation."""
    return next((number(notes[k]) for key in keys if (k := f"{AUTOSCALING}/{key}") in notes), None)


def number(raw: str | None) -> int | None:
    """Return a number that a label or annotation holds, not below 0; None if it holds none."""
    try:
        return max(0, int(raw)) if raw is not None else None
    except ValueError:
        return None


def _namespace(raw: Raw) -> str:
    return str(raw["metadata"].get("namespace", ""))


def _seconds(stamp: str | None) -> float:
    return datetime.datetime.fromisoformat(stamp).timestamp() if stamp else 0.0
