"""CPU seconds of pods, as the kernel counts them and each node's kubelet tells.

Why: what a hop costs is spent in sidecars, brokers, activator and ingress as much as in functions.
The kubelet's ``/metrics/resource`` has the kernel's counter of every container with the moment at
which it was read, some ten seconds apart: far too coarse for one short round, right for a row of
them. It must not estimate: who ended before it was read is reported, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bench.compare.knative.kube import Kube, until

FRESH_SECONDS = 180.0
_CPU = re.compile(r"^(container|pod)_cpu_usage_seconds_total\{([^}]*)\} (\S+) (\d+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
WHOLE = ""
"""In a container's place: the whole pod."""


@dataclass(frozen=True, slots=True)
class Key:
    """A container of a pod, or the whole pod (container ``WHOLE``)."""

    namespace: str
    pod: str
    container: str = WHOLE


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds since a container started, and when that was read (node's clock, ms)."""

    seconds: float
    at: int


Sample = dict[Key, Reading]


def parse(page: str, namespaces: Collection[str]) -> Sample:
    """Return what a kubelet's page says of the pods of ``namespaces``."""
    found: Sample = {}
    for kind, labels, value, at in _CPU.findall(page):
        told = dict(_LABEL.findall(labels))
        if told.get("namespace") in namespaces:
            container = told.get("container", "") if kind == "container" else WHOLE
            key = Key(told["namespace"], told.get("pod", ""), container)
            found[key] = Reading(float(value), int(at))
    return found


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds between two samples: by namespace, and of them in sidecars."""

    by_namespace: Mapping[str, float]
    queue_proxy: float
    gone: tuple[str, ...] = ()
    """Pods that ended in between: what they spent after their last reading is in no sum."""

    @property
    def whole(self) -> float:
        """Return all of it."""
        return sum(self.by_namespace.values())


def spent(before: Sample, after: Sample) -> Spent:
    """Return what was spent from ``before`` to ``after``; a new pod spent all it has."""
    by_namespace: dict[str, float] = {}
    sidecars = 0.0
    for key, reading in after.items():
        earlier = before.get(key)
        used = reading.seconds - (earlier.seconds if earlier else 0.0)
        if used < 0:  # the container was started again
            used = reading.seconds
        if key.container == WHOLE:
            by_namespace[key.namespace] = by_namespace.get(key.namespace, 0.0) + used
        elif key.container == "queue-proxy":
            sidecars += used
    gone = sorted({k.pod for k in before if k.container == WHOLE} - {k.pod for k in after})
    return Spent(by_namespace, sidecars, tuple(gone))


class Meter:
    """Asks every node's kubelet, through the API server, for the pods of some namespaces."""

    def __init__(self, kube: Kube, namespaces: Collection[str]) -> None:
        self._kube, self._namespaces = kube, frozenset(namespaces)
        self._nodes = [n["metadata"]["name"] for n in kube.get("nodes")["items"]]

    def sample(self) -> Sample:
        """Return the latest readings, whenever they were taken."""
        found: Sample = {}
        for node in self._nodes:
            page = self._kube.raw(f"/api/v1/nodes/{node}/proxy/metrics/resource")
            found |= parse(page, self._namespaces)
        return found

    def fresh(self) -> Sample:
        """Return readings of which all that are of running pods were taken after this call began.

        Clocks of nodes need not agree with this machine's: a reading is new when its moment has
        changed. A kubelet shows the last reading of a pod that ended for some minutes more.
        """
        old, there = self.sample(), self._running()

        def ask() -> Sample | None:
            now, running = self.sample(), there & self._running()
            mine = {k: r for k, r in now.items() if (k.namespace, k.pod) in running}
            if any(k in old and old[k].at == r.at for k, r in mine.items()):
                return None
            return now if {(k.namespace, k.pod) for k in mine} == running else None

        return until(ask, "kubelets to read the pods' CPU anew", FRESH_SECONDS)

    def _running(self) -> set[tuple[str, str]]:
        """Return namespace and name of the pods that run and stay."""
        found = self._kube.get("pods", "-A", "--field-selector=status.phase=Running")["items"]
        named = [(p["metadata"]["namespace"], p["metadata"]["name"], p["metadata"]) for p in found]
        return {(n, p) for n, p, m in named if n in self._namespaces and not _ending(m)}


def _ending(metadata: Mapping[str, object]) -> bool:
    return "deletionTimestamp" in metadata
