"""The agents of all nodes, by their admin sockets.

Why: an agent that is away (restarting, hung, lost with its node) must not hold up
the others: its silence is an answer, and it is left alone for a moment. Where an
agent is found differs by platform and may change: on a cluster it is a pod. It must
not decide anything.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from controller.loads import Loads, Sample
from controller.view import NodeView
from lifl import naming
from lifl.dataplane.admin import AgentAdmin
from lifl.errors import LiflError, Unavailable

TIMEOUT_SECONDS = 5.0
LEAVE_ALONE_SECONDS = 0.5
WORKERS = 16


class Directory(Protocol):
    """Where agents are found; ``longest_pause`` is in seconds."""

    longest_pause: float

    def place(self, node: str) -> Hashable | None:
        """Return the address of a node's agent now, None if it has none."""
        ...

    def open(self, node: str, timeout: float) -> AgentAdmin:
        """Return a connection to it; raises Unavailable if it has none."""
        ...


class LocalDirectory:
    """Agents of this machine, by the paths of their sockets."""

    longest_pause = LEAVE_ALONE_SECONDS

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def place(self, node: str) -> Path:
        """Return the path of the admin socket."""
        return naming.admin_socket(self._run_dir, node)

    def open(self, node: str, timeout: float) -> AgentAdmin:
        """Return a connection."""
        return AgentAdmin(self.place(node), timeout=timeout)


class Agents:
    """Connections to the agents; for one thread.

    Nodes are asked side by side, at most WORKERS at once. An agent that does not answer is
    left alone for a moment, ever longer up to the directory's ``longest_pause``.
    """

    def __init__(self, directory: Directory, loads: Loads) -> None:
        self._directory = directory
        self._loads = loads
        self._admins: dict[str, tuple[Hashable, AgentAdmin]] = {}
        self._away: dict[str, tuple[float, float]] = {}
        self._workers: ThreadPoolExecutor | None = None

    def admin(self, node: str) -> AgentAdmin:
        """Return the connection to a node's agent; raises Unavailable if it has none."""
        place = self._directory.place(node)
        known = self._admins.get(node)
        if known is not None and known[0] == place:
            return known[1]
        if known is not None:
            del self._admins[node]
            self._away.pop(node, None)
            known[1].close()
        if place is None:
            raise Unavailable(f"node {node} has no agent")
        admin = self._directory.open(node, TIMEOUT_SECONDS)
        self._admins[node] = (place, admin)
        return admin

    def look(self, nodes: Iterable[str]) -> list[NodeView]:
        """Ask every node's agent what it is and has."""
        names = list(nodes)
        self._loads.forget(frozenset(names))
        admins = [self._reachable(node) for node in names]
        samples = self._ask(admins)
        return [self._view(n, s) for n, s in zip(names, samples, strict=True)]

    def _reachable(self, node: str) -> AgentAdmin | None:
        try:
            admin = self.admin(node)
        except LiflError:
            return None
        until, _ = self._away.get(node, (0.0, 0.0))
        return None if time.monotonic() < until else admin

    def _ask(self, admins: Sequence[AgentAdmin | None]) -> list[Sample | None]:
        if sum(a is not None for a in admins) < 2:
            return [_sample(a) for a in admins]
        if self._workers is None:
            self._workers = ThreadPoolExecutor(WORKERS, "agents")
        return list(self._workers.map(_sample, admins))

    def _view(self, node: str, sample: Sample | None) -> NodeView:
        if sample is not None:
            self._away.pop(node, None)
            loads = self._loads.note(node, sample)
            work = self._loads.work(node)
            return NodeView(node, sample.epoch, sample.domains, loads, work)
        now = time.monotonic()
        until, pause = self._away.get(node, (0.0, LEAVE_ALONE_SECONDS / 2))
        if now >= until:
            pause = min(2 * pause, max(LEAVE_ALONE_SECONDS, self._directory.longest_pause))
            self._away[node] = (now + pause, pause)
        return NodeView(node, "")

    def close(self) -> None:
        """Close all connections."""
        if self._workers is not None:
            self._workers.shutdown()
        for _, admin in self._admins.values():
            admin.close()
        self._admins.clear()


def _sample(admin: AgentAdmin | None) -> Sample | None:
    if admin is None:
        return None
    try:
        return Sample.from_json(admin.look())
    except LiflError:
        return None
