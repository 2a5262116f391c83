"""The coordinator as the controller sees it: a stream of views, and plans sent back.

Why: the loop must not block on a long poll, so a thread of its own keeps one
parked and hands over the last answer. It must not decide anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from controller.view import JobView
from lifl.auth import mint_platform_token
from lifl.client.http import HttpClient
from lifl.errors import LiflError
from lifl.topology import Plan

log = logging.getLogger("lifl.controller")

WAIT_SECONDS = 25.0
PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class World:
    """The last answer of the coordinator: its jobs and the nodes whose gateways are alive.

    ``leaving`` are the names of deleted jobs that nodes may still hold pools of, ``public``
    the URLs by which clients reach nodes' gateways, where they are known.
    """

    revision: int
    jobs: tuple[JobView, ...]
    nodes: tuple[str, ...]
    leaving: tuple[str, ...] = ()
    public: Mapping[str, str] = field(default_factory=dict)


def world_from_json(raw: dict[str, Any]) -> World:
    """Read a watch answer."""
    names = (n if isinstance(n, str) else n["node"] for n in raw["nodes"])
    return World(
        int(raw["rev"]),
        tuple(JobView.from_json(j) for j in raw["jobs"]),
        tuple(sorted(names)),
        tuple(raw.get("leaving") or ()),
        {n["node"]: n["public"] for n in raw["nodes"] if isinstance(n, dict) and n.get("public")},
    )


class Coordinator:
    """Watches from :meth:`start` on, and is told plans.

    ``on_change`` is called from the watching thread.
    """

    def __init__(self, url: str, secret: bytes, on_change: Callable[[], None]) -> None:
        def token() -> str:
            return mint_platform_token(secret, "controller")

        self._http = HttpClient(url, token, connections=2)
        self._on_change = on_change
        self._lock = threading.Lock()
        self._world: World | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; ``on_change`` may be called before this returns."""
        self._thread.start()

    def world(self) -> World | None:
        """Return the last answer, None before the first."""
        with self._lock:
            return self._world

    def put_plan(self, plan: Plan, round_: int) -> None:
        """Tell the coordinator a plan; raises HttpError or Unavailable."""
        payload = {"plan": plan.to_json(), "round": round_}
        self._http.json("PUT", f"/internal/v1/jobs/{plan.job}/plan", payload)

    def given_up(self, job: str) -> None:
        """Tell that no node has a deleted job's pool; raises HttpError or Unavailable."""
        self._http.json("DELETE", f"/internal/v1/jobs/{job}")

    def publish(self, node: str, url: str) -> None:
        """Tell where clients reach a node's gateway; raises HttpError or Unavailable."""
        path = f"/internal/v1/nodes/{quote(node, safe='')}/public"
        self._http.json("PUT", path, {"url": url})

    def close(self) -> None:
        """Stop watching; a parked poll ends with the process."""
        self._ended.set()
        self._http.close()

    def _watch(self) -> None:
        revision = -1
        while not self._ended.is_set():
            try:
                raw = self._http.json(
                    "GET",
                    f"/internal/v1/watch?since={revision}&wait={WAIT_SECONDS:g}",
                    timeout=WAIT_SECONDS + 10.0,
                )
                world = world_from_json(raw)
            except LiflError:
                revision = -1  # another coordinator may count anew
                time.sleep(PAUSE_SECONDS)
                continue
            revision = world.revision
            with self._lock:
                self._world = world
            try:
                self._on_change()
            except Exception:  # a deaf controller would be worse than one that missed a change
                log.exception("the watch of the coordinator goes on after an error")
