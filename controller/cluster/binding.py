"""Which pod goes on which node: the scheduler's decision.

Why: a planned aggregator must start on the node of its seat, a gateway where there is an
agent and no gateway, and everything else where it leaves the least over (BestFit), so that
updates meet in shared memory and whole nodes stay free.

BestFit is :mod:`controller.plan.placement`'s rule, for amounts of two kinds. A node's room is
what it would have left of cpu and of memory, each as a share of the largest node's, and of
both the smaller: on equal nodes, one less the *dominant share*. Of the nodes in use (those
with a pod of this scheduler that is no gateway: each node has one) the pod's is the one with
the least room left that still fits; only if none does, the roomiest of the others.

It must not do I/O. Pods of other schedulers are counted and never decided on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from controller.cluster.objects import NodeObject, PodView
from controller.cluster.packing import (
    Bind,
    Claim,
    Decision,
    Packing,
    Provision,
    Refuse,
    Surroundings,
)
from controller.cluster.seats import AGGREGATOR, ALL_JOBS, COORDINATOR, GATEWAY
from lifl.naming import LABEL_NAMESPACE, SCHEDULER

__all__ = ["Bind", "Claim", "Decision", "Provision", "Refuse", "Surroundings", "decide", "pending"]

LONGEST_LABEL = 63


def pending(pods: Iterable[PodView]) -> list[PodView]:
    """Return the pods that wait for us: the most important first, then the oldest."""
    found = [
        p for p in pods if not p.node and p.scheduler_name == SCHEDULER and p.live and not p.gates
    ]
    return sorted(found, key=lambda p: (-p.priority, p.created, p.namespace, p.name))


def decide(
    waiting: Sequence[PodView],
    nodes: Iterable[NodeObject],
    pods: Iterable[PodView],
    around: Surroundings,
) -> list[Decision]:
    """Return a decision for each pod of ``waiting``: first all that get a node, as they come.

    ``pods`` are all pods of the cluster, since each takes room. What is bound counts at once.
    Aggregators for which no seat is left come last, and reasons are those at the end of the
    pass, so that deciding again changes nothing and says the same.
    """
    packing = Packing(nodes, pods, around)
    found: list[Decision] = []
    refused: list[Decision] = []
    seatless: list[PodView] = []
    unplaced: list[PodView] = []
    for pod in waiting:
        problem = _problem(pod, around, packing.total)
        if problem:
            refused.append(Refuse(pod, problem))
            continue
        if pod.function != AGGREGATOR:
            name, job = (pod.function, ALL_JOBS) if pod.function else ("", "")
            given, otherwise = packing.best(pod, name, job), unplaced
        elif around.seats is not None:
            given, otherwise = packing.seat(pod), seatless
        else:
            continue
        if given is not None:
            found.append(given)
        else:
            otherwise.append(pod)
    for pod in seatless:
        blocked = packing.blocked(pod)
        if blocked is not None:
            refused.append(blocked)
        elif (given := packing.best(pod, label(pod.name), "")) is not None:
            found.append(given)
        else:
            unplaced.append(pod)
    return found + refused + [Refuse(pod, packing.why(pod)) for pod in unplaced]


_FUNCTIONS = (GATEWAY, COORDINATOR, AGGREGATOR)


def label(name: str) -> str:
    """Return a pod's name as a DNS label; its end, which is what differs, is kept."""
    return name[-LONGEST_LABEL:].replace(".", "-").strip("-")


def _problem(pod: PodView, around: Surroundings, total: int) -> str:
    """Return why no node at all will do."""
    if pod.function and pod.namespace not in around.namespaces:
        return (
            f"namespace {pod.namespace} is not for functions: label it {LABEL_NAMESPACE}=enabled "
            f"if whoever may make pods there is trusted with every job"
        )
    if pod.function and pod.function not in _FUNCTIONS:
        return f"there is no function {pod.function!r}: use {', '.join(_FUNCTIONS)}"
    problem = ""
    if pod.unsupported:
        problem = f"{SCHEDULER} does not support {' and '.join(pod.unsupported)}"
    for name in pod.claims:
        claim = around.claims.get((pod.namespace, name), _UNREAD)
        problem = problem or claim.problem
    return f"0/{total} nodes are available: {problem}." if problem else ""


_UNREAD = Claim(problem="the volume claim has not been read yet")
