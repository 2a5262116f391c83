"""The agents of all nodes, by their admin sockets.

Why: an agent that is away (restarting, hung, lost with its node) must not hold up
the others: its silence is an answer, and it is left alone for a moment. Where an
agent is found differs by platform and may change: on a cluster it is a pod. It must
not decide anything.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Protocol

from controller.view import NodeView
from lifl import naming
from lifl.dataplane.admin import AgentAdmin
from lifl.errors import LiflError, Unavailable

TIMEOUT_SECONDS = 5.0
LEAVE_ALONE_SECONDS = 0.5


class Directory(Protocol):
    """Where agents are found."""

    def place(self, node: str) -> Hashable | None:
        """Return the address of a node's agent now, None if it has none."""
        ...

    def open(self, node: str, timeout: float) -> AgentAdmin:
        """Return a connection to it; raises Unavailable if it has none."""
        ...


class LocalDirectory:
    """Agents of this machine, by the paths of their sockets."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def place(self, node: str) -> Path:
        """Return the path of the admin socket."""
        return naming.admin_socket(self._run_dir, node)

    def open(self, node: str, timeout: float) -> AgentAdmin:
        """Return a connection."""
        return AgentAdmin(self.place(node), timeout=timeout)


class Agents:
    """Connections to the agents; for one thread."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._admins: dict[str, tuple[Hashable, AgentAdmin]] = {}
        self._away_until: dict[str, float] = {}

    def admin(self, node: str) -> AgentAdmin:
        """Return the connection to a node's agent; raises Unavailable if it has none."""
        place = self._directory.place(node)
        known = self._admins.get(node)
        if known is not None and known[0] == place:
            return known[1]
        if known is not None:
            del self._admins[node]
            known[1].close()
        if place is None:
            raise Unavailable(f"node {node} has no agent")
        admin = self._directory.open(node, TIMEOUT_SECONDS)
        self._admins[node] = (place, admin)
        return admin

    def look(self, nodes: Iterable[str]) -> list[NodeView]:
        """Ask every node's agent what it is and has."""
        return [self._look(node) for node in nodes]

    def _look(self, node: str) -> NodeView:
        if time.monotonic() < self._away_until.get(node, 0.0):
            return NodeView(node, "")
        try:
            admin = self.admin(node)
            epoch = str(admin.info()["epoch"])
            domains = frozenset(d["name"] for d in admin.domains())
        except LiflError:
            self._away_until[node] = time.monotonic() + LEAVE_ALONE_SECONDS
            return NodeView(node, "")
        return NodeView(node, epoch, domains)

    def close(self) -> None:
        """Close all connections."""
        for _, admin in self._admins.values():
            admin.close()
        self._admins.clear()
