"""What the webhook makes of a function's pod, as a JSON patch (RFC 6902).

Why: neither Knative nor OpenFaaS lets a function's description say that it needs the
node's agent, a scheduler of its own or no queue-proxy, so the pods are completed when
they are created, whoever made them. A user may not name itself: what tells a function
its name, job and proof comes from annotations that binding sets, never from the template.

* The hostPath is DirectoryOrCreate: "Directory" fails a pod that comes before the agent
  has made it (after a boot /run is empty), and kubelet tries such a mount again late.
  The agent mounts the same directory the same way, so nobody's directory hides another's.
* A container is the function's if the annotation names it; else Knative's user container
  (Knative puts K_REVISION into it, other webhooks' sidecars have none); else the one of
  the OpenFaaS function's name; else every one that is not queue-proxy. A sidecar that
  another webhook adds therefore gets neither the socket nor the proof.

It must not do I/O, and must leave a pod it has patched as it is (webhooks are called
again after others changed the pod). The queue-proxy rules are in
:mod:`controller.cluster.sidecarless`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.cluster.sidecarless import QUEUE_PROXY, replace_queue_proxy
from controller.cluster.specs import Refused, field_env, find_env, set_env_if_unset
from lifl.naming import (
    AGENT_SOCKET,
    ANNOTATION_CONTAINER,
    ANNOTATION_JOB,
    ANNOTATION_NAME,
    ANNOTATION_REGISTRATION,
    ANNOTATION_SIDECAR,
    LABEL_FUNCTION,
    SCHEDULER,
)

Object = dict[str, Any]

KINDS = frozenset({"gateway", "coordinator", "aggregator"})
AGENT_VOLUME = "lifl-agent"
LABEL_OPENFAAS = "faas_function"
DEFAULT_PORT = 8080
"""What the functions' images listen on."""
DEFAULT_GRACE = 30
"""Kubernetes' own terminationGracePeriodSeconds."""
BOUND = (ANNOTATION_NAME, ANNOTATION_JOB, ANNOTATION_REGISTRATION)
_CHANGED = ("containers", "volumes", "schedulerName", "terminationGracePeriodSeconds")


@dataclass(frozen=True, slots=True)
class InjectSettings:
    """What is put into pods."""

    run_dir: str = "/run/lifl"
    """The node's directory with the agent's socket, there and in the container."""
    scheduler: str = SCHEDULER
    drain_seconds: int = 3
    """How long an aggregator without queue-proxy goes on serving after SIGTERM."""
    ending_seconds: int = 35
    """What an aggregator may take after that: gunicorn's graceful_timeout and a little."""


def patch(pod: Mapping[str, Any], settings: InjectSettings | None = None) -> list[Object]:
    """Return the operations that complete ``pod``; none if it is not a function's or is complete.

    Raises
    ------
    Refused
        if the pod says something that cannot be met; the message says what to change.
    """
    settings = settings or InjectSettings()
    kind = (pod["metadata"].get("labels") or {}).get(LABEL_FUNCTION)
    if kind is None:
        return []
    if kind not in KINDS:
        raise Refused(
            f"the label {LABEL_FUNCTION}={str(kind)[:63]!r} is none of {', '.join(sorted(KINDS))}"
        )
    if pod["spec"].get("nodeName"):
        raise Refused(
            f"spec.nodeName is set to {pod['spec']['nodeName']!r}: leave it out, since "
            f"{settings.scheduler} gives a function its node and its name together"
        )
    spec = copy.deepcopy(dict(pod["spec"]))
    annotations = pod["metadata"].get("annotations") or {}
    functions = _functions(pod, spec["containers"])
    spec["schedulerName"] = settings.scheduler
    _mount(spec, functions, settings.run_dir)
    for container in functions:
        _introduce(container, settings.run_dir)
        if kind == "gateway":
            _gateway_url(container)
    if kind == "aggregator":
        _aggregator(spec, functions, annotations, settings)
    return _operations(pod, spec)


def _functions(pod: Mapping[str, Any], containers: list[Object]) -> list[Object]:
    """Return the containers that are the function; the module's docstring has the rule."""
    metadata = pod["metadata"]
    named = (metadata.get("annotations") or {}).get(ANNOTATION_CONTAINER)
    if named is not None:
        found = [c for c in containers if c["name"] == named and c["name"] != QUEUE_PROXY]
        if not found:
            raise Refused(
                f"the annotation {ANNOTATION_CONTAINER} names the container {named[:63]!r}; "
                f"the pod has {', '.join(c['name'] for c in containers)}"
            )
        return found
    knative = _knative(containers)
    if len(knative) > 1:
        raise Refused(
            f"the revision has several containers ({', '.join(c['name'] for c in knative)}): "
            f"say with the annotation {ANNOTATION_CONTAINER} which one is the function"
        )
    if knative:
        return knative
    openfaas = (metadata.get("labels") or {}).get(LABEL_OPENFAAS)
    found = [c for c in containers if c["name"] == openfaas]
    found = found or [c for c in containers if c["name"] != QUEUE_PROXY]
    if not found:
        raise Refused("the pod has no container but queue-proxy")
    return found


def _knative(containers: list[Object]) -> list[Object]:
    return [c for c in containers if find_env(c, "K_REVISION") and c["name"] != QUEUE_PROXY]


def _mount(spec: Object, functions: list[Object], run_dir: str) -> None:
    ours: Object = {
        "name": AGENT_VOLUME,
        "hostPath": {"path": run_dir, "type": "DirectoryOrCreate"},
    }
    volumes = spec.get("volumes") or []
    taken = next((v for v in volumes if v["name"] == AGENT_VOLUME), None)
    if taken is None:
        spec["volumes"] = [*volumes, ours]
    elif taken != ours:
        raise Refused(f"the volume name {AGENT_VOLUME!r} is LIFL's own: call yours otherwise")
    mount = {"name": AGENT_VOLUME, "mountPath": run_dir, "readOnly": True}
    for container in functions:
        mounts = container.get("volumeMounts") or []
        others = [
            m for m in mounts if m["name"] != AGENT_VOLUME and m["mountPath"].rstrip("/") != run_dir
        ]
        if mount not in mounts or len(others) != len(mounts) - 1:
            container["volumeMounts"] = [*others, mount]


def _introduce(container: Object, run_dir: str) -> None:
    """Tell a function who and where it is, first of all: what follows may refer to it."""
    ours = [
        field_env("LIFL_NODE", "spec.nodeName"),
        field_env("LIFL_POD_IP", "status.podIP"),
        field_env("LIFL_NAME", f"metadata.annotations['{ANNOTATION_NAME}']"),
        field_env("LIFL_DOMAIN", f"metadata.annotations['{ANNOTATION_JOB}']"),
        field_env("LIFL_REGISTRATION", f"metadata.annotations['{ANNOTATION_REGISTRATION}']"),
        {"name": "LIFL_AGENT_SOCKET", "value": f"{run_dir}/{AGENT_SOCKET}"},
    ]
    names = {entry["name"] for entry in ours}
    others = [e for e in container.get("env") or [] if e["name"] not in names]
    container["env"] = ours + others


def _gateway_url(container: Object) -> None:
    set_env_if_unset(container, "LIFL_GATEWAY_URL", f"http://$(LIFL_POD_IP):{_port(container)}")


def _port(container: Object) -> int:
    entry = find_env(container, "PORT") or {}
    value = str(entry.get("value") or "")
    if value.isdecimal():
        return int(value)
    ports = container.get("ports") or []
    return int(ports[0]["containerPort"]) if ports else DEFAULT_PORT


def _aggregator(
    spec: Object,
    functions: list[Object],
    annotations: Mapping[str, str],
    settings: InjectSettings,
) -> None:
    proxy = next((c for c in spec["containers"] if c["name"] == QUEUE_PROXY), None)
    if proxy is not None:
        sidecar = annotations.get(ANNOTATION_SIDECAR)
        if sidecar == "keep":
            return  # it drains and counts; its ports are its own
        if sidecar is not None:
            raise Refused(f"the annotation {ANNOTATION_SIDECAR}={sidecar[:63]!r} must be keep")
        if max(len(functions), len(_knative(spec["containers"]))) > 1:
            raise Refused(
                "queue-proxy cannot be taken out of a revision with several containers: use one, "
                f"or keep queue-proxy with the annotation {ANNOTATION_SIDECAR}: keep"
            )
        replace_queue_proxy(functions[0], proxy)
        spec["containers"] = [c for c in spec["containers"] if c is not proxy]
    drain = settings.drain_seconds
    for container in functions:
        set_env_if_unset(container, "LIFL_DRAIN_SECONDS", str(settings.drain_seconds))
        value = (find_env(container, "LIFL_DRAIN_SECONDS") or {}).get("value", "")
        if value.isdecimal():
            drain = max(drain, int(value))
    grace = spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE)
    spec["terminationGracePeriodSeconds"] = max(grace, drain + settings.ending_seconds)


def _operations(pod: Mapping[str, Any], spec: Object) -> list[Object]:
    """Return what leads from the pod to the new spec, without what only binding may say."""
    before = pod["spec"]
    operations: list[Object] = [
        {"op": "add", "path": f"/spec/{member}", "value": spec[member]}
        for member in _CHANGED
        if member in spec and spec[member] != before.get(member)
    ]
    annotations = pod["metadata"].get("annotations") or {}
    operations += [
        {"op": "remove", "path": "/metadata/annotations/" + name.replace("/", "~1")}
        for name in BOUND
        if name in annotations
    ]
    return operations
