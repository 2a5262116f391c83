"""Measurements of a run, written to results/cluster.json."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Sequence
from typing import Any

from tests.cluster.kube import kubectl, query
from tests.cluster.settings import Settings


class Figures:
    """Figures by platform; what an earlier run wrote stays unless it is measured again."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.results
        self._found: dict[str, Any] = {}
        if self._file.exists():
            self._found = json.loads(self._file.read_text())

    def note(self, platform: str, name: str, value: Any) -> None:
        """Keep a figure, and show it."""
        self._found.setdefault(platform, {})[name] = value
        print(f"figure {platform} {name}: {json.dumps(value)}")
        self.write()

    def write(self) -> None:
        """Write all of them, with what they were measured on."""
        if not self._found:
            return
        self._found["cluster"] = _cluster() | {"date": time.strftime("%Y-%m-%d")}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._found, indent=1, sort_keys=True) + "\n")


def spread(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Return median, least, most and number of some measurements."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "n": len(values),
    }


def histogram(page: str, name: str, labels: str = "") -> dict[str, float]:
    """Return count and mean of a Prometheus histogram on a page, over all its labels."""
    totals = {}
    for part in ("sum", "count"):
        found = re.findall(rf"^{name}_{part}(?:{{[^}}]*{labels}[^}}]*}})? (\S+)$", page, re.M)
        totals[part] = sum(map(float, found))
    mean = totals["sum"] / totals["count"] if totals["count"] else 0.0
    return {"count": totals["count"], "mean": round(mean, 5)}


def page(namespace: str, pod: str, port: int) -> str:
    """Return a pod's metrics, by way of the API server."""
    return kubectl(
        "get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics"
    )


def _cluster() -> dict[str, Any]:
    nodes = query("get", "nodes")["items"]
    info = nodes[0]["status"]["nodeInfo"]
    return {
        "kubernetes": info["kubeletVersion"],
        "runtime": info["containerRuntimeVersion"],
        "kernel": info["kernelVersion"],
        "nodes": len(nodes),
        "cpus": [n["status"]["capacity"]["cpu"] for n in nodes],
    }
