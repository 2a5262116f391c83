"""Where a pending pod's volumes are, asked at the API server; and telling them where to be.

Why: a pod must go to a node that reaches its volume, and many storage classes make the
volume only when the claim is told the node. Few pods of ours have claims (the coordinator
does), so they are read when needed instead of being watched. It must not choose nodes.

Not judged: how many volumes a node can attach, and storage capacity. Among existing
volumes without a provisioner the cluster's own scheduler would choose; this does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from controller.clients.api import Cluster, Object
from controller.clients.errors import NotFound
from controller.clients.kinds import Kind
from controller.cluster.binding import Claim
from controller.cluster.objects import PodView, Requirement, Term, node_terms
from lifl.errors import LiflError

CLAIM = Kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
VOLUME = Kind("v1", "persistentvolumes", "PersistentVolume", namespaced=False)
STORAGE_CLASS = Kind("storage.k8s.io/v1", "storageclasses", "StorageClass", namespaced=False)

SELECTED_NODE = "volume.kubernetes.io/selected-node"
NO_PROVISIONER = "kubernetes.io/no-provisioner"
AGAIN_SECONDS = 1.0
"""How long an answer that may change is believed."""

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Read:
    claim: Claim
    until: float


class Volumes:
    """What is known of the claims of pending pods; for one thread."""

    def __init__(self, cluster: Cluster, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._known: dict[Name, _Read] = {}

    def look(self, pods: Iterable[PodView]) -> dict[Name, Claim]:
        """Return what the claims of ``pods`` ask for, by (namespace, name); others are forgotten.

        What cannot be read is a problem of the claim, in words.
        """
        names = {(p.namespace, c) for p in pods for c in p.claims}
        now = self._clock()
        self._known = {n: r for n, r in self._known.items() if n in names and now < r.until}
        for name in names - self._known.keys():
            claim = self._read(*name)
            lasting = not claim.problem and not claim.waits
            self._known[name] = _Read(claim, float("inf") if lasting else now + AGAIN_SECONDS)
        return {n: r.claim for n, r in self._known.items()}

    def select(self, namespace: str, claim: str, node: str) -> None:
        """Tell a claim the node that its pod will go to; raises LiflError."""
        self._known.pop((namespace, claim), None)
        note = {"metadata": {"annotations": {SELECTED_NODE: node}}}
        self._cluster.patch(CLAIM, claim, note, namespace)

    def _read(self, namespace: str, name: str) -> Claim:
        try:
            claim = self._cluster.get(CLAIM, name, namespace)
            if claim["metadata"].get("deletionTimestamp"):
                return Claim(problem=f'persistentvolumeclaim "{name}" is being deleted')
            volume = claim["spec"].get("volumeName")
            if volume and (claim.get("status") or {}).get("phase") != "Bound":
                return Claim(problem=f'persistentvolumeclaim "{name}" is being bound to {volume}')
            if volume:
                return self._bound(self._cluster.get(VOLUME, volume))
            return self._unbound(claim)
        except NotFound as e:
            return Claim(problem=f'persistentvolumeclaim "{name}": {e}')
        except LiflError as e:
            return Claim(problem=f'persistentvolumeclaim "{name}" cannot be read: {e}')

    def _bound(self, volume: Object) -> Claim:
        return Claim(node_terms((volume["spec"].get("nodeAffinity") or {}).get("required")))

    def _unbound(self, claim: Object) -> Claim:
        name = claim["metadata"]["name"]
        class_name = claim["spec"].get("storageClassName")
        kept = self._cluster.find(STORAGE_CLASS, class_name) if class_name else None
        if kept is None or kept.get("volumeBindingMode", "Immediate") == "Immediate":
            return Claim(problem="pod has unbound immediate PersistentVolumeClaims")
        node = (claim["metadata"].get("annotations") or {}).get(SELECTED_NODE)
        if node:
            return Claim(problem=f'persistentvolumeclaim "{name}" waits for its volume on {node}')
        if kept.get("provisioner", NO_PROVISIONER) == NO_PROVISIONER:
            return Claim(
                problem=f'persistentvolumeclaim "{name}" is not bound, and its storage class '
                f"{class_name} makes no volumes: bind it to one (spec.volumeName)"
            )
        return Claim(_topologies(kept), waits=True)


def _topologies(kept: Object) -> tuple[Term, ...] | None:
    """Read where a storage class makes volumes; None: anywhere."""
    allowed: list[Any] = kept.get("allowedTopologies") or []
    return tuple(_topology(t) for t in allowed) or None


def _topology(raw: Object) -> Term:
    labels = raw.get("matchLabelExpressions") or ()
    return Term(tuple(Requirement(r["key"], "In", tuple(r["values"])) for r in labels), ())
