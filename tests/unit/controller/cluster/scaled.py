"""Deployments, PodAutoscalers and pods as the autoscaler's tests need them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from controller.cluster.objects import Owner, PodView
from controller.cluster.targets import Deployed
from lifl.naming import AUTOSCALER_CLASS, SCHEDULER

Raw = dict[str, Any]
T0 = "2026-11-26T10:00:00Z"


def deployment(
    name: str = "aggregator",
    *,
    replicas: int = 0,
    ready: int = 0,
    labels: Mapping[str, str] = {},
    template: Mapping[str, str] = {},
    function: str = "aggregator",
    namespace: str = "lifl",
    created: str = T0,
) -> Raw:
    of = {"lifl.dev/function": function} if function else {}
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "creationTimestamp": created,
            "resourceVersion": "7",
            "labels": dict(labels),
        },
        "spec": {
            "replicas": replicas,
            "template": {"metadata": {"labels": of | dict(template)}, "spec": {}},
        },
        "status": {"readyReplicas": ready} if ready else {},
    }


def revision(number: int = 1, **changes: Any) -> Raw:
    """A Knative revision's Deployment."""
    name = f"aggregator-{number:05d}"
    labels = {"serving.knative.dev/revision": name, "serving.knative.dev/service": "aggregator"}
    created = f"2026-11-26T10:{number:02d}:00Z"
    known: Raw = {"labels": labels, "template": labels, "created": created}
    return deployment(f"{name}-deployment", **(known | changes))


def autoscaler(number: int = 1, *, reachability: str = "Reachable", **notes: str) -> Raw:
    """The PodAutoscaler that Knative makes of it; ``notes`` as in ``min_scale="2"``."""
    name = f"aggregator-{number:05d}"
    scales = {f"autoscaling.knative.dev/{k.replace('_', '-')}": v for k, v in notes.items()}
    return {
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {
            "name": name,
            "namespace": "lifl",
            "uid": f"uid-pa-{number}",
            "generation": 1,
            "resourceVersion": "3",
            "labels": {
                "app": name,
                "serving.knative.dev/revision": name,
                "serving.knative.dev/service": "aggregator",
            },
            "annotations": {"autoscaling.knative.dev/class": AUTOSCALER_CLASS} | scales,
        },
        "spec": {
            "protocolType": "http1",
            "reachability": reachability,
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": f"{name}-deployment",
            },
        },
    }


def serverless(pa: Raw, *, mode: str = "Proxy", ready: bool | None = None) -> Raw:
    """Its ServerlessService; ``ready`` None: Knative has not looked at it yet."""
    meta = pa["metadata"]
    owner = {"kind": "PodAutoscaler", "name": meta["name"], "uid": meta["uid"], "controller": True}
    found: Raw = {
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": f"sks-{meta['uid']}",
            "generation": 1,
            "resourceVersion": "4",
            "ownerReferences": [owner],
        },
        "spec": {"mode": mode},
    }
    if ready is not None:
        state = {"status": "True"} if ready else {"status": "Unknown", "message": "NoHealthy"}
        found["status"] = {
            "observedGeneration": 1,
            "serviceName": meta["name"],
            "privateServiceName": f"{meta['name']}-private",
            "conditions": [{"type": "Ready", **state}],
        }
    return found


def initialized(pa: Raw, status: str = "True") -> Raw:
    found = copy.deepcopy(pa)
    condition = {"type": "ScaleTargetInitialized", "status": status, "lastTransitionTime": T0}
    found["status"] = {"conditions": [condition], "serviceName": pa["metadata"]["name"]}
    return found


def deployed(raw: Raw | None = None, **changes: Any) -> Deployed:
    return Deployed.parse(raw if raw is not None else deployment(**changes))


def pod(
    name: str,
    seat: str = "",
    *,
    job: str = "j",
    node: str = "n1",
    of: str = "aggregator",
    **changes: Any,
) -> PodView:
    """A pod that runs; with a seat, or bound without, or (node "") not bound yet."""
    known: dict[str, Any] = {
        "namespace": "lifl",
        "name": name,
        "uid": f"uid-{name}",
        "node": node,
        "phase": "Running" if node else "Pending",
        "scheduler_name": SCHEDULER,
        "function": "aggregator",
        "job": job if seat else "",
        "seat": seat,
        "owner": Owner("ReplicaSet", f"{of}-5d8f7c", "uid-rs"),
        "ready": bool(node),
    }
    return PodView(**(known | changes))
