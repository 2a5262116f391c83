"""Long polls: what a client is told, and the clients that wait to be told.

Why: clients ask for work, or for a model to come, by a request that is held until there is
some. A parked poll is a greenlet with an event, not a thread, so thousands cost
nothing until their job changes. Whether a poll is due is a pure function of
the view. It must not read sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from zlib import crc32

from gevent.event import Event

from functions.gateway.pauses import let_others_run
from functions.gateway.views import JobView

BATCH = 64


def due(view: JobView, client: str, after: int | None) -> bool:
    """Whether a poll is to be answered now.

    Without ``after`` always; else when a round above ``after`` is open, the
    client's update of the open round was lost, or the job is over.
    """
    if after is None or view.over:
        return True
    if view.state != "open":
        return False
    return view.round > after or (client in view.lost and view.chosen(client))


def published(view: JobView, version: int) -> bool:
    """Whether who waits for a model ``version`` is to be answered now: it is there, or never is."""
    return view.over or (view.version >= version and view.model is not None)


def answer(view: JobView, client: str, *, node: str, url: str, now: float) -> dict[str, Any]:
    """Return the body of the answer.

    ``node`` and ``url`` (for clients) are this gateway's, ``now`` is unix seconds. A client
    that placement does not know yet is sent where there are aggregators.
    """
    target = view.clients.get(client) or _any_node(view, client, node)
    base = view.public.get(node) or url
    if target != node and target in view.upload:
        base = view.public.get(target) or view.upload[target]
    job = quote(view.job)
    return {
        "job": view.job,
        "round": view.round,
        "version": view.version,
        "state": view.state,
        "selected": view.chosen(client),
        "model_url": f"/v1/jobs/{job}/model?version={view.version}",
        "upload_url": f"{base}/v1/jobs/{job}/rounds/{view.round}/updates",
        "deadline_seconds": None if view.deadline is None else max(0.0, view.deadline - now),
        "your_update": view.standing(client),
        "update_type": view.update_type,
        "client_config": dict(view.client_config),
    }


def _any_node(view: JobView, client: str, node: str) -> str:
    nodes = view.plan.nodes if view.plan is not None else ()
    if not nodes or node in nodes:
        return node
    return nodes[crc32(client.encode()) % len(nodes)]


class _Waiter:
    __slots__ = ("event", "is_due")

    def __init__(self, is_due: Callable[[JobView], bool]) -> None:
        self.is_due = is_due
        self.event = Event()


class Polls:
    """The parked polls of one gateway."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[_Waiter]] = {}
        self._told: dict[str, tuple[Any, ...]] = {}
        self._closed = False

    @property
    def parked(self) -> int:
        """Return how many polls wait."""
        return sum(len(w) for w in self._waiting.values())

    def park(self, job: str, is_due: Callable[[JobView], bool], seconds: float) -> None:
        """Return when the poll is due, ``seconds`` have passed, or the gateway stops."""
        if self._closed:
            return
        waiter = _Waiter(is_due)
        waiting = self._waiting.setdefault(job, set())
        waiting.add(waiter)
        try:
            waiter.event.wait(seconds)
        finally:
            waiting.discard(waiter)

    def changed(self, view: JobView) -> None:
        """Wake the polls that ``view`` makes due, a batch at a time."""
        told = (view.round, view.state, view.lost, view.version, view.model)
        if self._told.get(view.job) == told:
            return
        self._told[view.job] = told
        self._wake([w for w in self._waiting.get(view.job, ()) if w.is_due(view)])

    def forget(self, job: str) -> None:
        """Wake everybody who waits for a job that is gone."""
        self._told.pop(job, None)
        self._wake(list(self._waiting.pop(job, ())))

    def close(self) -> None:
        """Wake everybody, and park nobody from now on."""
        self._closed = True
        for job in list(self._waiting):
            self.forget(job)

    @staticmethod
    def _wake(waiters: list[_Waiter]) -> None:
        for i in range(0, len(waiters), BATCH):
            for waiter in waiters[i : i + BATCH]:
                waiter.event.set()
            let_others_run()


def patience(asked: float | None, cap: float) -> float:
    """Return how long to park a poll that asks for ``asked`` seconds."""
    return cap if asked is None else min(max(asked, 0.0), cap)
