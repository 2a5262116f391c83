"""The agents of a cluster: pods of the DaemonSet, reached over TLS.

Why: an agent's admin operations are open to nobody but the controller, which shows a
certificate of its own CA and wants to see the agent's. A pod that is replaced has
another address, so addresses come from a live copy of the pods. It must not decide
anything.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from controller.clients.api import Cluster, Object
from controller.clients.cache import Cache
from controller.clients.kinds import POD
from lifl.dataplane.admin import AgentAdmin
from lifl.errors import Unavailable

LABELS = "app.kubernetes.io/name=lifl-agent"
PORT = 9465

Credentials = tuple[Hashable, ssl.SSLContext]
"""What changes with a certificate, and the context made of it."""


@dataclass(frozen=True, slots=True)
class AgentPod:
    """One agent: its pod's address, and whether its readiness probe says yes."""

    node: str
    address: str
    ready: bool
    deleting: bool

    @classmethod
    def parse(cls, pod: Object) -> AgentPod:
        """Read a pod as the API server sends it."""
        status: dict[str, Any] = pod.get("status") or {}
        return cls(
            node=pod["spec"].get("nodeName", ""),
            address=status.get("podIP", ""),
            ready=any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in status.get("conditions") or ()
            ),
            deleting="deletionTimestamp" in pod["metadata"],
        )


class AgentPods:
    """A :class:`controller.agents.Directory` of the agents' pods in ``namespace``.

    ``credentials`` raises Unavailable while there is no certificate yet.
    """

    longest_pause = 5.0

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        credentials: Callable[[], Credentials],
        *,
        port: int = PORT,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._credentials = credentials
        self._port = port
        self._by_node: tuple[list[AgentPod], dict[str, AgentPod]] = ([], {})
        self.cache = Cache(
            cluster, POD, AgentPod.parse, namespace=namespace, labels=LABELS, on_change=on_change
        )

    def nodes(self) -> frozenset[str]:
        """Return the nodes whose agent is ready."""
        return frozenset(p.node for p in self.cache.values() if p.node and p.ready)

    def _pod(self, node: str) -> AgentPod | None:
        """Return a node's agent, while one is replaced the one that goes on."""
        pods, found = self._by_node
        now = self.cache.values()
        if now is not pods:
            best = sorted((p for p in now if p.address), key=lambda p: (p.deleting, not p.ready))
            found = {p.node: p for p in reversed(best)}
            self._by_node = (now, found)
        return found.get(node)

    def place(self, node: str) -> Hashable | None:
        """Return what changes when a connection has to be made anew."""
        pod = self._pod(node)
        try:
            return None if pod is None else (pod.address, self._credentials()[0])
        except Unavailable:
            return None

    def open(self, node: str, timeout: float) -> AgentAdmin:
        """Return a connection; raises Unavailable if the node has no agent."""
        pod = self._pod(node)
        if pod is None:
            raise Unavailable(f"node {node} has no agent")
        context = self._credentials()[1]
        return AgentAdmin.remote(pod.address, self._port, context, timeout=timeout)
