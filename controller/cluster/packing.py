"""The state of one scheduling pass: what each node has left, and who gets it.

Why: of many pods at once each must see what the ones before it took; and since room only
shrinks in a pass, what did not fit a pod does not fit another of the same shape, which
keeps a pass over a thousand nodes in milliseconds. It must not do I/O.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from controller.cluster.fit import Used, barred, crowded, misfits, summary
from controller.cluster.objects import NodeObject, PodView, Term
from controller.cluster.seats import COORDINATOR, GATEWAY, Seat, open_seats
from lifl.naming import SCHEDULER

NO_AGENT = "node(s) had no LIFL agent"
HAS_GATEWAY = "node(s) had a gateway already"


@dataclass(frozen=True, slots=True)
class Bind:
    """Give a pod its node; ``name``, ``job`` and ``kind`` are "" if it is no function of ours."""

    pod: PodView
    node: str
    name: str = ""
    job: str = ""
    kind: str = ""

    @property
    def seen(self) -> PodView:
        """Return the pod as it will be."""
        return replace(self.pod, node=self.node, seat=self.name, job=self.job)


@dataclass(frozen=True, slots=True)
class Refuse:
    """Leave a pod as it is; ``message`` is for who asks why."""

    pod: PodView
    message: str


@dataclass(frozen=True, slots=True)
class Provision:
    """Tell volume claims of a pod the node that it will go to; their volumes are made there."""

    pod: PodView
    node: str
    claims: tuple[str, ...]


Decision = Bind | Provision | Refuse


@dataclass(frozen=True, slots=True)
class Claim:
    """What a volume claim asks of the node: any of ``terms`` (None: nothing).

    ``problem`` says why no node will do now, "" if nothing is in the way. ``waits`` if its
    volume is made, or bound, only when a node is chosen.
    """

    terms: tuple[Term, ...] | None = None
    problem: str = ""
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else is known: ``seats`` that are wanted, in order, the nodes with a live agent,
    the namespaces that functions may run in, and volume claims by (namespace, name).

    ``seats`` is None while nobody knows them: aggregators then wait.
    """

    seats: Sequence[Seat] | None = ()
    agents: Set[str] = frozenset()
    namespaces: Set[str] = frozenset()
    claims: Mapping[tuple[str, str], Claim] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    """A node and what the pods on it take by now."""

    node: NodeObject
    used: Used
    in_use: bool = False
    gateway: bool = False


Shape = tuple[object, ...]


@dataclass(slots=True)
class _Queue:
    """The nodes that pods of one shape go to, the next one first, as of ``version``."""

    version: int
    nodes: deque[_Node]


class Packing:
    """The state of one pass: room only ever shrinks, so what did not fit will not."""

    def __init__(
        self, nodes: Iterable[NodeObject], pods: Iterable[PodView], around: Surroundings
    ) -> None:
        self._around = around
        self._nodes = {n.name: _Node(n, Used()) for n in sorted(nodes, key=lambda n: n.name)}
        self.total = len(self._nodes)
        known = list(pods)
        for pod in known:
            if pod.node and not pod.ended and (on := self._nodes.get(pod.node)) is not None:
                self._count(on, pod)
        self._cpu = max((n.node.allocatable.cpu for n in self._nodes.values()), default=0) or 1
        self._memory = max((n.node.allocatable.memory for n in self._nodes.values()), default=0)
        self._memory = self._memory or 1
        self._open = open_seats(around.seats or (), known)
        self._given: set[str] = set()
        self._seats: dict[Shape, deque[Seat]] = {}
        self._queues: dict[Shape, _Queue] = {}
        self._unplaced: set[Shape] = set()
        self._reasons: dict[Shape, str] = {}
        self._version = 0

    # -- a seat ----------------------------------------------------------------------

    def seat(self, pod: PodView) -> Bind | Provision | None:
        """Give an aggregator the first open seat whose node it fits, None if there is none."""
        shape = _shape(pod)
        left = self._seats.setdefault(shape, deque(self._open))
        while left:
            seat = left.popleft()  # of use to no other pod of this shape, whatever comes
            if seat.name not in self._given and not self._unfit(pod, seat):
                self._given.add(seat.name)
                return self._give(pod, self._nodes[seat.node], seat.name, seat.job)
        return None

    def blocked(self, pod: PodView) -> Refuse | None:
        """Return why a pod got none of the seats that are still open, None if none is."""
        seat = next((s for s in self._open if s.name not in self._given), None)
        if seat is None:
            return None
        why = ", ".join(self._unfit(pod, seat))
        return Refuse(pod, f"seat {seat.name} of job {seat.job} is on node {seat.node}: {why}.")

    def _unfit(self, pod: PodView, seat: Seat) -> list[str]:
        on = self._nodes.get(seat.node)
        if on is None:
            return ["there is no such node"]
        if seat.node not in self._around.agents:
            return ["the node has no live LIFL agent"]
        return misfits(pod, on.node, on.used, self._volumes(pod))

    # -- the best node ---------------------------------------------------------------

    def best(self, pod: PodView, name: str, job: str) -> Bind | Provision | None:
        """Give a pod the node that BestFit chooses, None if it fits none."""
        shape = _shape(pod)
        if shape in self._unplaced:
            return None
        queue = self._queues.get(shape)
        if queue is None or queue.version != self._version:
            queue = self._queues[shape] = self._queue(pod)
        while queue.nodes:
            on = queue.nodes[0]
            if not self._obstacle(pod, on) and not crowded(pod, on.node, on.used):
                given = self._give(pod, on, name, job)
                queue.version = self._version  # who is next has not changed by this
                return given
            queue.nodes.popleft()
        self._unplaced.add(shape)
        return None

    def why(self, pod: PodView) -> str:
        """Return why a pod fits no node, as things are now."""
        shape = _shape(pod)
        if shape not in self._reasons:
            self._reasons[shape] = self._count_reasons(pod)
        return self._reasons[shape]

    def _queue(self, pod: PodView) -> _Queue:
        """Order the nodes for pods like this one.

        The first is taken until it is full: it then has less room than before, and is in
        use, while the others are as they were.
        """
        volumes = self._volumes(pod)
        fitting = [
            on
            for on in self._nodes.values()
            if not self._obstacle(pod, on) and not misfits(pod, on.node, on.used, volumes)
        ]
        used = [on for on in fitting if on.in_use]
        unused = [on for on in fitting if not on.in_use]
        used.sort(key=lambda on: self._room(on, pod))
        unused.sort(key=lambda on: self._room(on, pod), reverse=True)
        return _Queue(self._version, deque(used + unused))

    def _room(self, on: _Node, pod: PodView) -> float:
        """Return what a node has left with the pod, as a share: see binding.py."""
        there, used, asked = on.node.allocatable, on.used, pod.requests
        return min(
            (there.cpu - used.cpu - asked.cpu) / self._cpu,
            (there.memory - used.memory - asked.memory) / self._memory,
        )

    def _obstacle(self, pod: PodView, on: _Node) -> str:
        """Return what a function's pod misses or finds on a node, "" if all is well."""
        if pod.function in (GATEWAY, COORDINATOR) and on.node.name not in self._around.agents:
            return NO_AGENT
        return HAS_GATEWAY if pod.function == GATEWAY and on.gateway else ""

    def _count_reasons(self, pod: PodView) -> str:
        volumes = self._volumes(pod)
        reasons: Counter[str] = Counter()
        for on in self._nodes.values():
            obstacle = self._obstacle(pod, on)
            reasons.update(
                barred(pod, on.node, volumes)
                or ([obstacle] if obstacle else crowded(pod, on.node, on.used))
            )
        return summary(self.total, reasons)

    # -- both ------------------------------------------------------------------------

    def _volumes(self, pod: PodView) -> list[tuple[Term, ...]]:
        claims = (self._around.claims[pod.namespace, name] for name in pod.claims)
        return [c.terms for c in claims if c.terms is not None]

    def _give(self, pod: PodView, on: _Node, name: str, job: str) -> Bind | Provision:
        self._version += 1
        self._count(on, pod)
        claims = self._around.claims
        waiting = tuple(c for c in pod.claims if claims[pod.namespace, c].waits)
        if waiting:
            return Provision(pod, on.node.name, waiting)
        return Bind(pod, on.node.name, name, job, pod.function)

    def _count(self, on: _Node, pod: PodView) -> None:
        on.used.add(pod)
        if pod.function == GATEWAY and pod.live and pod.namespace in self._around.namespaces:
            on.gateway = True
        elif pod.function != GATEWAY and pod.scheduler_name == SCHEDULER:
            on.in_use = True


def _shape(pod: PodView) -> Shape:
    """Return what alone decides where a pod can go: pods that agree in it go anywhere alike."""
    return (
        pod.function,
        pod.requests,
        pod.node_selector,
        pod.affinity,
        pod.tolerations,
        pod.host_ports,
        pod.claims and (pod.namespace, pod.claims),
    )
