"""How LIFL's clients get into a cluster from outside.

Why: on Knative a gateway has a name that no DNS knows here and is reached through Kourier;
elsewhere whoever runs the comparison says where it is. It must not send anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.compare.knative.kube import ClusterError, Kube
from bench.compare.knative.settings import address
from lifl import naming


@dataclass(frozen=True, slots=True)
class Way:
    """How clients get in: a gateway's URL, and where they connect to for it (HOST:PORT or "")."""

    url: str
    ingress: str = ""

    def endpoint(self, url: str) -> tuple[tuple[str, int], str, str]:
        """Return where to connect to for ``url``, its Host and its path."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        to = address(self.ingress, "--lifl-ingress") if self.ingress else (host, parts.port or 80)
        return to, parts.netloc, parts.path


def knative_way(kube: Kube, namespace: str) -> Way:
    """Return the first per-node gateway on Knative, by Kourier's load balancer or node port.

    Raises
    ------
    ClusterError
        if there is none; elsewhere the way has to be named.
    """
    if kube.serves("serving.knative.dev/v1"):
        found = kube.get("-n", namespace, "ksvc", "-l", naming.LABEL_GATEWAY_OF)["items"]
        urls = sorted(s["status"]["url"] for s in found if s.get("status", {}).get("url"))
        if urls:
            return Way(urls[0], _kourier(kube))
    raise ClusterError(
        f"no gateway of Knative's in namespace {namespace}: name one by --lifl-url, and where to "
        "connect to for it by --lifl-ingress"
    )


def _kourier(kube: Kube) -> str:
    service = kube.get("-n", "kourier-system", "service", "kourier")
    for each in service["status"].get("loadBalancer", {}).get("ingress", ()):
        return f"{each.get('ip') or each['hostname']}:80"
    (port,) = (p["nodePort"] for p in service["spec"]["ports"] if p["port"] == 80)
    addresses = kube.get("nodes")["items"][0]["status"]["addresses"]
    return f"{next(a['address'] for a in addresses if a['type'] == 'InternalIP')}:{port}"
