"""Whether a pod fits a node, and if not, why, in kube-scheduler's words.

Why: a pod that names our scheduler must be treated as the stock one would treat it, and
whoever looks at a pending pod must read the reason. Judged are readiness, taints, node
selector and required node affinity, where its volumes are, host ports and room; what
cannot be judged is refused (``PodView.unsupported``), never ignored. Preferences are not
weighed. It must not do I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controller.cluster.objects import (
    NodeObject,
    PodView,
    Port,
    Requirement,
    Taint,
    Term,
    Toleration,
)
from controller.cluster.resources import Resources

NO_SCHEDULE, NO_EXECUTE = "NoSchedule", "NoExecute"
UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "", NO_SCHEDULE)
NOT_READY = Taint("node.kubernetes.io/not-ready", "", NO_SCHEDULE)

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")


@dataclass(slots=True)
class Used:
    """What the pods of a node take; changes as pods are added."""

    cpu: int = 0
    memory: int = 0
    ephemeral: int = 0
    pods: int = 0
    other: dict[str, int] = field(default_factory=dict)
    ports: set[Port] = field(default_factory=set)

    def add(self, pod: PodView) -> None:
        """Count a pod."""
        asked = pod.requests
        self.cpu += asked.cpu
        self.memory += asked.memory
        self.ephemeral += asked.ephemeral
        self.pods += asked.pods
        for name, amount in asked.other:
            self.other[name] = self.other.get(name, 0) + amount
        if pod.host_ports:
            self.ports.update(pod.host_ports)

    def left(self, allocatable: Resources) -> Resources:
        """Return what a node has left; below zero if it is over-full."""
        return Resources(
            allocatable.cpu - self.cpu,
            allocatable.memory - self.memory,
            allocatable.ephemeral - self.ephemeral,
            allocatable.pods - self.pods,
            tuple((k, v - self.other.get(k, 0)) for k, v in allocatable.other),
        )


def misfits(
    pod: PodView, node: NodeObject, used: Used, volumes: Sequence[tuple[Term, ...]] = ()
) -> list[str]:
    """Return why a pod cannot run on a node; an empty list if it can.

    ``volumes`` are the conditions of the volumes that its claims are bound to. As with
    kube-scheduler the first kind of obstacle is told alone; only of room, all that lacks.
    """
    return barred(pod, node, volumes) or crowded(pod, node, used)


def barred(pod: PodView, node: NodeObject, volumes: Sequence[tuple[Term, ...]] = ()) -> list[str]:
    """Return what keeps a pod off a node whoever else is there."""
    if node.unschedulable and not tolerates(pod.tolerations, UNSCHEDULABLE):
        return ["node(s) were unschedulable"]
    if not node.ready and not tolerates(pod.tolerations, NOT_READY):
        return ["node is not ready"]
    for taint in node.taints:
        if taint.effect in (NO_SCHEDULE, NO_EXECUTE) and not tolerates(pod.tolerations, taint):
            return [f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"]
    if any(node.labels.get(key) != value for key, value in pod.node_selector) or not (
        pod.affinity is None or matches(pod.affinity, node)
    ):
        return ["node(s) didn't match Pod's node affinity/selector"]
    if not all(matches(terms, node) for terms in volumes):
        return ["node(s) had volume node affinity conflict"]
    return []


def crowded(pod: PodView, node: NodeObject, used: Used) -> list[str]:
    """Return what a node has no more of: host ports, cpu, memory, places."""
    if pod.host_ports and any(clash(p, q) for p in pod.host_ports for q in used.ports):
        return ["host port in use"]
    asked, there = pod.requests, node.allocatable
    if (
        asked.cpu <= there.cpu - used.cpu
        and asked.memory <= there.memory - used.memory
        and asked.pods <= there.pods - used.pods
        and not asked.ephemeral
        and not asked.other
    ):
        return []
    return asked.lacking(used.left(there))


def clash(one: Port, two: Port) -> bool:
    """Say whether two host ports cannot be had at once."""
    same_address = one[1] == two[1] or not one[1] or not two[1]
    return one[0] == two[0] and one[2] == two[2] and same_address


def tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    """Say whether any toleration covers a taint."""
    return any(
        (not t.effect or t.effect == taint.effect)
        and (not t.key or t.key == taint.key)
        and (t.operator == "Exists" or (t.operator == "Equal" and t.value == taint.value))
        for t in tolerations
    )


def matches(terms: Sequence[Term], node: NodeObject) -> bool:
    """Say whether a node satisfies at least one term."""
    return any(
        (term.labels or term.fields)
        and all(_holds(r, node.labels) for r in term.labels)
        and all(_field_holds(r, node) for r in term.fields)
        for term in terms
    )


def _holds(wanted: Requirement, labels: Mapping[str, str]) -> bool:
    there = labels.get(wanted.key)
    match wanted.operator:
        case "In":
            return there is not None and there in wanted.values
        case "NotIn":
            return there is None or there not in wanted.values
        case "Exists":
            return there is not None
        case "DoesNotExist":
            return there is None
        case "Gt" | "Lt":
            return _compares(wanted, there)
    return False


def _compares(wanted: Requirement, there: str | None) -> bool:
    if there is None or len(wanted.values) != 1:
        return False
    limit = wanted.values[0]
    if not _INTEGER.match(there) or not _INTEGER.match(limit):
        return False
    return int(there) > int(limit) if wanted.operator == "Gt" else int(there) < int(limit)


def _field_holds(wanted: Requirement, node: NodeObject) -> bool:
    """Judge a condition on the node's name, the one field there is."""
    known = wanted.key == "metadata.name" and wanted.operator in ("In", "NotIn")
    return known and _holds(wanted, {"metadata.name": node.name})


def summary(total: int, reasons: Mapping[str, int]) -> str:
    """Return "0/3 nodes are available: 2 Insufficient cpu, 1 ..." of reasons and their numbers."""
    told = sorted(f"{number} {words}" for words, number in reasons.items())
    return f"0/{total} nodes are available: {', '.join(told) or 'there are none'}."
