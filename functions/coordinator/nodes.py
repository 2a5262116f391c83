"""Which nodes there are: a heartbeat each second or anything else, lost after some silence.

Why: a node that is gone takes accepted updates with it, and their clients must
be asked again. Pure: time comes with the event (seconds of a monotonic clock).
It must not know jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(slots=True)
class Node:
    """One node; ``url`` is its gateway's, empty until it reports.

    ``said`` is where clients reach it as the gateway says; "" if the same as ``url``.
    """

    name: str
    url: str
    info: Mapping[str, Any]
    seen: float
    said: str = ""


class NodeTable:
    """The nodes that report, and those that should.

    Where clients reach a node may be told by who knows better than its gateway (on Knative the
    controller). That outlives the node's silence: nobody may be there to say it again.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._nodes: dict[str, Node] = {}
        self._told: dict[str, str] = {}

    def heartbeat(
        self, name: str, url: str, info: Mapping[str, Any], now: float, said: str = ""
    ) -> bool:
        """A node has reported; return whether there is news in it."""
        old = self._nodes.get(name)
        new = Node(name, url, info, now, said)
        self._nodes[name] = new
        return old is None or replace(old, seen=now) != new

    def heard(self, name: str, now: float) -> None:
        """A node asked for something: it is alive, though its heartbeats may be held up."""
        node = self._nodes.get(name)
        if node is not None:
            node.seen = max(node.seen, now)

    def tell(self, name: str, public: str) -> bool | None:
        """Somebody else says where clients reach a node ("": no more); return whether it is news.

        None if the node is not known: say it again when it is.
        """
        node = self._nodes.get(name)
        if node is None:
            return None
        before = self._public(node)
        self._told[name] = public
        return self._public(node) != before

    def expect(self, names: Iterable[str], now: float) -> None:
        """Nodes that a predecessor knew: they have the usual time to report."""
        for name in names:
            self._nodes.setdefault(name, Node(name, "", {}, now))

    def remove(self, name: str) -> bool:
        """A node is gone; return whether it was known."""
        self._told.pop(name, None)
        return self._nodes.pop(name, None) is not None

    def expired(self, now: float) -> list[str]:
        """Remove and return the nodes that have been silent for too long."""
        gone = [n.name for n in self._nodes.values() if now - n.seen > self._timeout]
        for name in gone:
            del self._nodes[name]
        return gone

    def forgive(self, seconds: float) -> None:
        """Count this long as heard: the process was asleep and could not listen."""
        for node in self._nodes.values():
            node.seen += seconds

    def due(self) -> float | None:
        """Return when the next node would be lost."""
        oldest = min((n.seen for n in self._nodes.values()), default=None)
        return None if oldest is None else oldest + self._timeout

    def urls(self) -> dict[str, str]:
        """Return the gateways' URLs by node, as they reach each other."""
        return {n.name: n.url for n in self._nodes.values() if n.url}

    def public(self) -> dict[str, str]:
        """Return the gateways' URLs for clients by node, where they are others."""
        found = {n.name: self._public(n) for n in self._nodes.values() if n.url}
        return {name: public for name, public in found.items() if public}

    def to_json(self) -> list[dict[str, Any]]:
        """Return what watchers are told."""
        return [
            {"node": n.name, "url": n.url, "public": self._public(n), "info": dict(n.info)}
            for n in self._nodes.values()
            if n.url
        ]

    def _public(self, node: Node) -> str:
        """Return where clients reach a gateway, "" if by its ``url``."""
        return self._told.get(node.name) or node.said
