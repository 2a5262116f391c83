"""How many aggregators a node has room for.

Why: a plan with more aggregators on a node than the node can run would wait for pods that
never come; so what Kubernetes knows of a node bounds its leaves. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from controller.cluster.objects import NodeObject, PodView
from controller.cluster.resources import Resources
from controller.cluster.seats import AGGREGATOR

USUAL = Resources(cpu=100, memory=128 << 20, pods=1)
"""What an aggregator's pod asks for, until one has been seen."""
PER_PROCESSOR = 8
"""Aggregators of all jobs for each processor: jobs take turns, and their aggregators wait."""


def aggregators(
    nodes: Iterable[NodeObject],
    pods: Iterable[PodView],
    *,
    full: Collection[str] = (),
) -> dict[str, int]:
    """Return the most aggregators of each node: of its CPUs, and of what others leave there.

    None where nothing new can run: the node is not ready, cordoned, or among ``full``; what
    runs on it already may go on.
    """
    used: dict[str, Resources] = {}
    running: dict[str, int] = {}
    request = USUAL
    for pod in pods:
        if not pod.node or pod.ended:
            continue
        if pod.function == AGGREGATOR:
            running[pod.node] = running.get(pod.node, 0) + 1
            request = pod.requests
        else:
            used[pod.node] = used.get(pod.node, Resources()) + pod.requests
    found = {}
    for node in nodes:
        if not node.ready or node.unschedulable or node.name in full:
            found[node.name] = running.get(node.name, 0)
            continue
        left = node.allocatable - used.get(node.name, Resources())
        most = PER_PROCESSOR * processors(node)
        found[node.name] = min(most, _times(request, left))
    return found


def processors(node: NodeObject) -> int:
    """Return how many processors a node has for pods, at least 1."""
    return max(1, node.allocatable.cpu // 1000)


def _times(request: Resources, left: Resources) -> int:
    """Return how many such requests fit into what is left."""
    asked: Mapping[str, int] = {
        "cpu": request.cpu,
        "memory": request.memory,
        "ephemeral": request.ephemeral,
        "pods": max(1, request.pods),
    }
    there: Mapping[str, int] = {
        "cpu": left.cpu,
        "memory": left.memory,
        "ephemeral": left.ephemeral,
        "pods": left.pods,
    }
    return max(0, min(there[name] // n for name, n in asked.items() if n > 0))
