"""What an autoscaler of class hierarchy.lifl.dev owes Knative for one revision.

Why: Knative makes a revision's Deployment and PodAutoscaler (PA) and then waits for somebody
to make the ServerlessService (SKS: where its requests go), to scale the Deployment and to say
so in the PA's status, from which the revision becomes ready. PodAutoscaler in, instructions
out; doing them and asking again gives none. It must not do I/O, read a clock, nor touch a
PodAutoscaler of another class or any annotation (Knative removes ours under its prefix).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.cluster.targets import Bounds, condition, is_ours

Raw = Mapping[str, Any]

SERVE, PROXY = "Serve", "Proxy"
ACTIVATORS = 2
"""What Knative itself gives a service of this size."""
TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"


@dataclass(frozen=True, slots=True)
class CreateSks:
    """Make the ServerlessService."""

    body: Raw


@dataclass(frozen=True, slots=True)
class PatchSksMode:
    """Say where requests go: to the pods (Serve), or to the activator, which holds them (Proxy)."""

    mode: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Set the Deployment's replicas."""

    replicas: int


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """Merge ``status`` into the PodAutoscaler's; its conditions are all there are."""

    status: Raw


Instruction = CreateSks | PatchSksMode | Scale | WriteStatus


@dataclass(frozen=True, slots=True)
class Pods:
    """How many replicas the Deployment asks for, how many are ready, how many there shall be.

    ``desired`` is within ``bounds``.
    """

    replicas: int
    ready: int
    desired: int
    bounds: Bounds


def decide(
    autoscaler: Raw,
    sks: Raw | None,
    pods: Pods,
    *,
    now: str,
    through_activator: bool = False,
) -> list[Instruction]:
    """Return what is to be done for one PodAutoscaler, in order.

    ``now`` is the time as Kubernetes writes it. With ``through_activator`` requests pass the
    activator although pods are ready, so that it goes on counting them.
    """
    if not is_ours(autoscaler) or autoscaler["metadata"].get("deletionTimestamp"):
        return []
    found: list[Instruction] = []
    serve = pods.desired > 0 and pods.ready > 0 and not through_activator
    mode = SERVE if serve else PROXY
    own = sks is None or _owned(sks, autoscaler)
    if sks is None:
        found.append(CreateSks(sks_body(autoscaler, mode)))
    elif own and sks["spec"].get("mode") != mode:
        found.append(PatchSksMode(mode))
    if pods.replicas != pods.desired:
        found.append(Scale(pods.desired))
    status = _status(autoscaler, sks if own else None, pods, now, owned=own)
    old = autoscaler.get("status") or {}
    if any(old.get(k) != v for k, v in status.items()):
        found.append(WriteStatus(status))
    return found


def sks_body(autoscaler: Raw, mode: str) -> dict[str, Any]:
    """Return the ServerlessService of a PodAutoscaler; it goes when that goes."""
    meta, spec = autoscaler["metadata"], autoscaler["spec"]
    owner = {
        "apiVersion": autoscaler.get("apiVersion", "autoscaling.internal.knative.dev/v1alpha1"),
        "kind": "PodAutoscaler",
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
    }
    return {
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": dict(meta.get("labels") or {}),
            "ownerReferences": [owner],
        },
        "spec": {
            "mode": mode,
            "objectRef": dict(spec["scaleTargetRef"]),
            "protocolType": spec["protocolType"],
            "numActivators": ACTIVATORS,
        },
    }


def _owned(sks: Raw, autoscaler: Raw) -> bool:
    owners = sks["metadata"].get("ownerReferences") or ()
    uid = autoscaler["metadata"]["uid"]
    return any(o.get("controller") and o["uid"] == uid for o in owners)


def _status(
    autoscaler: Raw,
    sks: Raw | None,
    pods: Pods,
    now: str,
    *,
    owned: bool,
) -> dict[str, Any]:
    old = autoscaler.get("status") or {}
    services = (sks or {}).get("status") or {}
    name = services.get("serviceName") or old.get("serviceName", "")
    initialized = condition(old, "ScaleTargetInitialized").get("status") == TRUE
    initialized = initialized or (
        bool(name) and pods.ready >= max(pods.bounds.least, pods.bounds.initial) and owned
    )
    parts = [
        _active(pods, initialized=initialized)
        if owned
        else (
            "Active",
            FALSE,
            "NotOwned",
            f"there is a ServerlessService {_name(autoscaler)!r} "
            "that belongs to somebody else; delete it",
        ),
        _sks_ready(sks),
        ("ScaleTargetInitialized", TRUE if initialized else UNKNOWN, "", ""),
    ]
    return {
        "observedGeneration": autoscaler["metadata"].get("generation", 0),
        "desiredScale": pods.desired,
        "actualScale": pods.ready,
        "conditions": _conditions([*parts, _rolled_up(parts)], old, now),
        # Both must be there, empty or not: the schema asks for them.
        "serviceName": name,
        "metricsServiceName": services.get("privateServiceName")
        or old.get("metricsServiceName", ""),
    }


Part = tuple[str, str, str, str]
"""A condition: type, status, reason, message."""


def _active(pods: Pods, *, initialized: bool) -> Part:
    """Return the condition Active.

    A revision that is inactive before it was up once counts as failed for good, hence:

        initialized | desired | ready          | Active
        no          | any     | any            | Unknown, Queued
        yes         | 0       | any            | False, NoTraffic
        yes         | > 0     | < max(min, 1)  | Unknown, Queued
        yes         | > 0     | >= max(min, 1) | True

    With an initial scale of 0 it is initialized as soon as its ServerlessService has a name.
    """
    if initialized and pods.desired == 0:
        return "Active", FALSE, "NoTraffic", "The target is not receiving traffic."
    if initialized and pods.ready >= max(pods.bounds.least, 1):
        return "Active", TRUE, "", ""
    return (
        "Active",
        UNKNOWN,
        "Queued",
        "Requests to the target are being buffered as resources are provisioned.",
    )


def _sks_ready(sks: Raw | None) -> Part:
    status = (sks or {}).get("status") or {}
    if sks is None or not status.get("privateServiceName"):
        return "SKSReady", UNKNOWN, "NotReady", "No Private Service Name"
    ready = condition(status, "Ready")
    seen = status.get("observedGeneration", 0) >= sks["metadata"].get("generation", 0)
    if ready.get("status") == TRUE and seen:
        return "SKSReady", TRUE, "", ""
    return "SKSReady", UNKNOWN, "NotReady", ready.get("message", "")


def _rolled_up(parts: Sequence[Part]) -> Part:
    """Return Ready: False if any is, else Unknown if any is, with the reason of that one."""
    for status in (FALSE, UNKNOWN):
        for _, is_, reason, message in parts:
            if is_ == status:
                return "Ready", status, reason, message
    return "Ready", TRUE, "", ""


def _conditions(parts: Sequence[Part], old: Raw, now: str) -> list[dict[str, str]]:
    """Return all conditions by type; a merge patch replaces the list, so none may lack."""
    found = []
    for type_, status, reason, message in sorted(parts):
        new = {"type": type_, "status": status}
        new |= {k: v for k, v in (("reason", reason), ("message", message)) if v}
        before = dict(condition(old, type_))
        since = before.pop("lastTransitionTime", None)
        found.append({**new, "lastTransitionTime": since if since and before == new else now})
    return found


def _name(raw: Raw) -> str:
    return str(raw["metadata"]["name"])
