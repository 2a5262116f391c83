"""The objects of the side: plain Services, a Broker, and Triggers between them.

Why: what is compared with is what somebody writes who has read Knative's documentation: nothing of
LIFL's (no label, class, scheduler, webhook) is in these objects. Pure; it must not apply anything.

One Service a leaf, each of one replica at most: the updates of a sum have to reach one process,
and a stock Service spreads requests over its replicas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.compare.knative import events
from bench.compare.knative.settings import Settings

BROKER = "updates"
MEANS = "means"
KPA = "kpa.autoscaling.knative.dev"
PART_OF = {"app.kubernetes.io/part-of": "lifl-compare"}
Object = dict[str, Any]


def namespace(settings: Settings) -> Object:
    """Return the namespace, which is the side's own."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": settings.namespace, "labels": dict(PART_OF)},
    }


def services(settings: Settings, leaves: int) -> list[Object]:
    """Return the Services: ``leaves`` leaves, and the top unless there is one leaf only."""
    names = [events.leaf_name(i) for i in range(leaves)]
    return [_service(settings, name) for name in [*names, *([events.TOP] if leaves > 1 else [])]]


def broker(settings: Settings, dead_letters: str) -> Object:
    """Return the Broker; what it gives up delivering goes to the URL ``dead_letters``."""
    spec: Object = {
        "delivery": {
            "retry": settings.retry,
            "backoffPolicy": "exponential",
            "backoffDelay": "PT0.2S",
            "deadLetterSink": {"uri": dead_letters},
        }
    }
    if settings.broker_config:
        home, _, name = settings.broker_config.partition("/")
        if not home or not name:
            raise ValueError(
                f"a Broker's configuration is NAMESPACE/NAME, not {settings.broker_config!r}"
            )
        spec["config"] = {"apiVersion": "v1", "kind": "ConfigMap", "namespace": home, "name": name}
    metadata = _metadata(settings, BROKER)
    metadata["annotations"] = {"eventing.knative.dev/broker.class": settings.broker_class}
    return {
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Broker",
        "metadata": metadata,
        "spec": spec,
    }


def triggers(settings: Settings, leaves: int, means: str) -> list[Object]:
    """Return the Triggers: updates to leaves, partials to the top, means to the URL ``means``."""
    found = [
        _trigger(settings, name, events.filters(i), _subscriber(name))
        for i, name in enumerate(map(events.leaf_name, range(leaves)))
    ]
    if leaves > 1:
        found.append(
            _trigger(settings, events.TOP, {"type": events.PARTIAL}, _subscriber(events.TOP))
        )
    found.append(_trigger(settings, MEANS, {"type": events.MEAN}, {"uri": means}))
    return found


def _service(settings: Settings, name: str) -> Object:
    annotations = {
        "autoscaling.knative.dev/class": KPA,
        "autoscaling.knative.dev/max-scale": "1",
    }
    if not settings.from_zero:
        annotations["autoscaling.knative.dev/min-scale"] = "1"
    metadata = _metadata(settings, name)
    metadata["labels"]["networking.knative.dev/visibility"] = "cluster-local"
    container: Object = {
        "image": settings.image,
        "ports": [{"containerPort": 8080}],
        "env": [{"name": "LIFL_NAME", "value": name}],
        "readinessProbe": {"httpGet": {"path": "/readyz"}},
        # Memory has no limit: payload by value is held several times over.
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod: Object = {"enableServiceLinks": False, "containers": [container]}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"template": {"metadata": {"annotations": annotations}, "spec": pod}},
    }


def _trigger(
    settings: Settings, name: str, wanted: Mapping[str, str], subscriber: Mapping[str, Any]
) -> Object:
    return {
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Trigger",
        "metadata": _metadata(settings, name),
        "spec": {
            "broker": BROKER,
            "filter": {"attributes": dict(wanted)},
            "subscriber": dict(subscriber),
        },
    }


def _subscriber(name: str) -> Object:
    return {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": name}}


def _metadata(settings: Settings, name: str) -> Object:
    return {"name": name, "namespace": settings.namespace, "labels": dict(PART_OF)}
