"""Which nodes there are: a heartbeat each second, lost after some silence.

Why: a node that is gone takes accepted updates with it, and their clients must
be asked again. Pure: time comes with the event (seconds of a monotonic clock).
It must not know jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Node:
    """One node; ``url`` is its gateway's, empty until it reports."""

    name: str
    url: str
    info: Mapping[str, Any]
    seen: float


class NodeTable:
    """The nodes that report, and those that should."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._nodes: dict[str, Node] = {}

    def heartbeat(self, name: str, url: str, info: Mapping[str, Any], now: float) -> bool:
        """A node has reported; return whether there is news in it."""
        old = self._nodes.get(name)
        self._nodes[name] = Node(name, url, info, now)
        return old is None or (old.url, old.info) != (url, info)

    def expect(self, names: Iterable[str], now: float) -> None:
        """Nodes that a predecessor knew: they have the usual time to report."""
        for name in names:
            self._nodes.setdefault(name, Node(name, "", {}, now))

    def remove(self, name: str) -> bool:
        """A node is gone; return whether it was known."""
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
        """Return the gateways' URLs by node."""
        return {n.name: n.url for n in self._nodes.values() if n.url}

    def to_json(self) -> list[dict[str, Any]]:
        """Return what watchers are told."""
        return [
            {"node": n.name, "url": n.url, "info": dict(n.info)}
            for n in self._nodes.values()
            if n.url
        ]
