"""What `make test-cluster` is told by its environment; `docs/cluster-run.md` lists it.

Why: the tests run on any cluster, and each has another way in, other images and other storage.
It must not ask the cluster.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

KNOWN = ("knative", "kubernetes", "openfaas")


@dataclass(frozen=True)
class Settings:
    """The variables; see :meth:`from_env`."""

    registry: str
    tag: str
    platforms: tuple[str, ...]
    """() for what the cluster has."""
    ingress: str
    gateway: str
    """Plain Kubernetes: where clients ask first; "" for a node's address at port 8080."""
    openfaas: str
    """URL of OpenFaaS's gateway; "" to send to the functions' pods."""
    hostpath: bool
    replace: bool
    keep: bool
    installed: bool
    """Test what is installed; neither install nor remove."""
    stop_apiserver: str
    start_apiserver: str
    results: Path

    @classmethod
    def from_env(cls) -> Settings:
        """Read them; raises ValueError, which says what is wrong."""
        env = os.environ
        platforms = tuple(p for p in env.get("LIFL_CLUSTER_PLATFORMS", "").split(",") if p)
        if wrong := set(platforms) - set(KNOWN):
            raise ValueError(f"LIFL_CLUSTER_PLATFORMS: {sorted(wrong)} are none of {KNOWN}")
        volumes = env.get("LIFL_CLUSTER_VOLUMES", "")
        if volumes not in ("", "hostpath"):
            raise ValueError(f"LIFL_CLUSTER_VOLUMES is hostpath or nothing, not {volumes!r}")
        stop, start = (env.get(f"LIFL_CLUSTER_APISERVER_{w}", "") for w in ("STOP", "START"))
        if bool(stop) != bool(start):
            raise ValueError("LIFL_CLUSTER_APISERVER_STOP and _START: give both or neither")
        return cls(
            registry=env.get("LIFL_REGISTRY", "dev.local/lifl"),
            tag=env.get("LIFL_TAG", ""),
            platforms=platforms,
            ingress=env.get("LIFL_INGRESS", ""),
            gateway=env.get("LIFL_CLUSTER_GATEWAY", "").rstrip("/"),
            openfaas=env.get("LIFL_CLUSTER_OPENFAAS", "").rstrip("/"),
            hostpath=volumes == "hostpath",
            replace=env.get("LIFL_CLUSTER_REPLACE", "") == "1",
            installed=env.get("LIFL_CLUSTER_INSTALLED", "") == "1",
            keep=env.get("LIFL_CLUSTER_KEEP", "") == "1",
            stop_apiserver=stop,
            start_apiserver=start,
            results=Path(env.get("LIFL_CLUSTER_RESULTS", "results/cluster.json")),
        )
