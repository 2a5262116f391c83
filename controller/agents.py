"""The agents of all nodes, by their admin sockets.

Why: an agent that is away (restarting, hung, lost with its node) must not hold up
the others: its silence is an answer, and it is left alone for a moment. It must
not decide anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from controller.view import NodeView
from lifl import naming
from lifl.dataplane.admin import AgentAdmin
from lifl.errors import LiflError

TIMEOUT_SECONDS = 5.0
LEAVE_ALONE_SECONDS = 0.5


class Agents:
    """Connections to the agents of one machine; for one thread."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._admins: dict[str, AgentAdmin] = {}
        self._away_until: dict[str, float] = {}

    def admin(self, node: str) -> AgentAdmin:
        """Return the connection to a node's agent."""
        if node not in self._admins:
            path = naming.admin_socket(self._run_dir, node)
            self._admins[node] = AgentAdmin(path, timeout=TIMEOUT_SECONDS)
        return self._admins[node]

    def look(self, nodes: Iterable[str]) -> list[NodeView]:
        """Ask every node's agent what it is and has."""
        return [self._look(node) for node in nodes]

    def _look(self, node: str) -> NodeView:
        if time.monotonic() < self._away_until.get(node, 0.0):
            return NodeView(node, "")
        admin = self.admin(node)
        try:
            epoch = str(admin.info()["epoch"])
            domains = frozenset(d["name"] for d in admin.domains())
        except LiflError:
            self._away_until[node] = time.monotonic() + LEAVE_ALONE_SECONDS
            return NodeView(node, "")
        return NodeView(node, epoch, domains)

    def close(self) -> None:
        """Close all connections."""
        for admin in self._admins.values():
            admin.close()
