"""How many updates a node can take, as it was measured and noted at the node.

Why: nodes differ; who has measured one says so by an annotation, and planning counts with
that instead of the setting that holds for all. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANNOTATION = "lifl.dev/capacity"


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """A node's service capacity MC in updates, None if it was not measured."""

    node: str
    updates: float | None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> NodeCapacity:
        """Read a node as the API server sends it; an unusable number is as none."""
        meta = raw["metadata"]
        try:
            updates = float((meta.get("annotations") or {})[ANNOTATION])
        except (KeyError, ValueError):
            return cls(meta["name"], None)
        return cls(meta["name"], updates if 0 < updates < float("inf") else None)
