"""How a function's container takes queue-proxy's place in a Knative pod.

Why: Knative always adds queue-proxy, and every request and every scrape goes to its
ports; there is no option against it. Without it the container must listen where
queue-proxy did, be probed as it was, and know what only it was told. Tried with Knative
1.23: its controllers look at the Deployment, not at the pods, and leave them alone.
What the program behind the ports must answer is in :mod:`functions.aggregator.knative`.

It must not do I/O.
"""

from __future__ import annotations

import copy

from controller.cluster.specs import Object, Refused, find_env, set_env
from lifl.naming import ANNOTATION_SIDECAR

QUEUE_PROXY = "queue-proxy"
SERVING_PORT = 8012
"""Where Knative's Services, activator and ingress send HTTP/1.1."""
STATS_PORT = 9090
"""Where Knative's autoscaler asks each pod for its load."""
PROBE_SECONDS = 1
"""Knative leaves the period at 10 s, in which a new pod that is ready gets nothing."""
TLS_VOLUME = "server-certs"
COPIED = (
    "SERVING_NAMESPACE",
    "SERVING_SERVICE",
    "SERVING_CONFIGURATION",
    "SERVING_REVISION",
    "SERVING_POD",
    "SERVING_POD_IP",
    "CONTAINER_CONCURRENCY",
    "REVISION_TIMEOUT_SECONDS",
)
"""What queue-proxy is told and the function may want to know."""
_PROBE: Object = {
    "httpGet": {
        "path": "/",
        "port": SERVING_PORT,
        "scheme": "HTTP",
        "httpHeaders": [{"name": "K-Network-Probe", "value": "queue"}],
    },
    "timeoutSeconds": 1,
    "successThreshold": 1,
    "failureThreshold": 3,
}


def replace_queue_proxy(container: Object, proxy: Object) -> None:
    """Change ``container`` so that it serves in the place of ``proxy``, which the caller removes.

    Raises
    ------
    Refused
        if queue-proxy does something here that the function cannot.
    """
    keep = f"or keep queue-proxy with the annotation {ANNOTATION_SIDECAR}: keep"
    if (find_env(proxy, "QUEUE_SERVING_PORT") or {}).get("value", "8012") != str(SERVING_PORT):
        raise Refused(f"an aggregator speaks HTTP/1.1: name its port http1 instead of h2c, {keep}")
    if any(m["name"] == TLS_VOLUME for m in proxy.get("volumeMounts") or []):
        raise Refused(
            "the cluster encrypts what goes to pods (system-internal-tls), which queue-proxy "
            f"ends: switch that off, {keep}"
        )
    old = _port(container)
    _move_ports(container, old)
    probe = copy.deepcopy(proxy.get("readinessProbe") or _PROBE)
    container["readinessProbe"] = probe | {"periodSeconds": PROBE_SECONDS}
    container.pop("lifecycle", None)  # its preStop asks queue-proxy, on 8022
    set_env(container, {"name": "PORT", "value": str(SERVING_PORT)})
    for name in COPIED:
        entry = find_env(proxy, name)
        if entry is not None:
            set_env(container, copy.deepcopy(entry))
    set_env(container, {"name": "LIFL_STATS_PORT", "value": str(STATS_PORT)})


def _port(container: Object) -> int | None:
    ports = container.get("ports") or []
    if ports:
        return int(ports[0]["containerPort"])
    value = (find_env(container, "PORT") or {}).get("value", "")
    return int(value) if value.isdecimal() else None


def _move_ports(container: Object, old: int | None) -> None:
    """Let declarations and kubelet's own probes follow to the new port."""
    ports = container.get("ports") or [{"protocol": "TCP"}]
    container["ports"] = [
        p | {"containerPort": SERVING_PORT} if p.get("containerPort", old) == old else p
        for p in ports
    ]
    for name in ("livenessProbe", "startupProbe"):
        for way in ("httpGet", "tcpSocket", "grpc"):
            target = (container.get(name) or {}).get(way) or {}
            if old is not None and target.get("port") == old:
                target["port"] = SERVING_PORT
