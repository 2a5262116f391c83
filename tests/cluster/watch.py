"""What happens to pods, with the times at which the API server told it.

Why: a pod's own times have whole seconds, and an aggregator lives for few of them. It must not
change anything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from controller.clients.api import Cluster
from controller.clients.cache import Cache
from controller.clients.kinds import POD
from tests.cluster.install import pod_ready


@dataclass
class Seen:
    """One pod; times are unix seconds of this machine, None for what was not seen."""

    name: str
    node: str = ""
    job: str = ""
    containers: int = 0
    made: float = 0.0
    bound: float | None = None
    ready: float | None = None
    gone: float | None = None
    annotations: dict[str, str] = field(default_factory=dict)


class PodWatch:
    """All pods of a function that were there while it was open."""

    def __init__(self, namespace: str, function: str = "aggregator") -> None:
        self.seen: dict[str, Seen] = {}
        self._cluster = Cluster.connect()
        self._cache = Cache(
            self._cluster,
            POD,
            self._note,
            namespace=namespace,
            labels=f"lifl.dev/function={function}",
            on_change=self._look,
        )

    def __enter__(self) -> PodWatch:
        self._cache.start()
        assert self._cache.wait(20.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._cache.stop()
        self._cluster.close()

    def of(self, job: str) -> list[Seen]:
        """Return the pods that had a seat of a job."""
        return [s for s in self.seen.values() if s.job == job]

    def alive(self) -> list[Seen]:
        """Return the pods that are not gone."""
        return [s for s in self.seen.values() if s.gone is None]

    def _note(self, pod: dict[str, Any]) -> str:
        now, meta = time.time(), pod["metadata"]
        one = self.seen.setdefault(meta["uid"], Seen(meta["name"], made=now))
        one.annotations = meta.get("annotations") or {}
        one.job = one.annotations.get("lifl.dev/job", "")
        one.node = pod["spec"].get("nodeName", "")
        one.containers = len(pod["spec"]["containers"])
        if one.node and one.bound is None:
            one.bound = now
        if one.ready is None and pod_ready(pod):
            one.ready = now
        return str(meta["uid"])

    def _look(self) -> None:
        there = set(self._cache.values())
        for uid, one in list(self.seen.items()):
            if uid not in there and one.gone is None:
                one.gone = time.time()
