"""The gateway's ear at the coordinator: job views in, heartbeats out.

Why: polls and uploads must not each ask the coordinator; one long poll brings
every change to all of them. The coordinator may be restarted at any time: the
last views stay in use, and after every break the whole state is asked for
again. It must not decide anything about rounds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import gevent
from gevent.event import Event

from functions.gateway.views import JobView
from lifl.client.http import HttpClient, HttpError
from lifl.errors import LiflError, Unavailable

log = logging.getLogger("lifl.gateway")

WAIT_SECONDS = 25.0
BEAT_SECONDS = 1.0
RETRY_SECONDS = 0.2
FRESH_SECONDS = 10.0
HURRY_SECONDS = 0.02


class Watch:
    """Keeps :attr:`views`, and the coordinator informed that this node lives.

    ``changed(view)`` and ``dropped(job)`` are told of every change, ``jobs``
    of all jobs, with whether they go on.
    """

    def __init__(
        self,
        coordinator: HttpClient,
        node: str,
        url: str,
        public_url: str = "",
        *,
        changed: Callable[[JobView], None],
        dropped: Callable[[str], None],
        jobs: Callable[[dict[str, bool]], None],
    ) -> None:
        self.views: dict[str, JobView] = {}
        self._coordinator = coordinator
        self._node = node
        self._urls = {"gateway_url": url} | ({"public_url": public_url} if public_url else {})
        self._changed = changed
        self._dropped = dropped
        self._jobs = jobs
        self._answered = 0.0
        self._informed = False
        self._met: dict[str, set[str]] = {}
        self._new: dict[str, set[str]] = {}
        self._hurry = Event()
        self._news = Event()

    @property
    def fresh(self) -> bool:
        """Whether the jobs are known and the coordinator answered lately."""
        return self._informed and time.monotonic() - self._answered < FRESH_SECONDS

    def view(self, job: str) -> JobView:
        """Return the present view of a job.

        Raises
        ------
        Unavailable
            if the coordinator has not told yet which jobs there are.
        KeyError
            if there is no such job.
        """
        if job not in self.views and not self._informed:
            raise Unavailable("the coordinator does not answer yet", retry_after=1.0)
        return self.views[job]

    def expect(self, job: str, seconds: float) -> None:
        """Return once there is a view of ``job``, at the latest after ``seconds``.

        So that who has just submitted a job finds it here.
        """
        with gevent.Timeout(seconds, False):
            while job not in self.views:
                self._news.clear()
                self._news.wait()

    def met(self, job: str, client: str) -> None:
        """Note that a client asked for work; the coordinator hears of new ones at once."""
        known = self._met.setdefault(job, set())
        if client not in known:
            known.add(client)
            self._new.setdefault(job, set()).add(client)
            self._hurry.set()

    def start(self) -> list[gevent.Greenlet]:
        """Start watching and beating."""
        return [gevent.spawn(self._watch), gevent.spawn(self._beat)]

    def _watch(self) -> None:
        since = 0
        while True:
            path = f"/internal/v1/watch?since={since}&wait={WAIT_SECONDS:.0f}"
            try:
                answer = self._coordinator.json("GET", path, timeout=WAIT_SECONDS + 10)
                self._answered = time.monotonic()
                since = answer["rev"]
                self.take(answer["jobs"])
            except Unavailable:
                since = 0
                gevent.sleep(RETRY_SECONDS)
            except (LiflError, KeyError, TypeError, ValueError):
                log.exception("the coordinator's answer is not usable")
                since = 0
                gevent.sleep(1.0)

    def take(self, jobs: list[dict[str, Any]]) -> None:
        """Make ``jobs`` the present views and tell of what changed."""
        going: dict[str, bool] = {}
        changed = []
        for raw in jobs:
            known = self.views.get(raw["job"])
            if known is not None and known.auth_key.hex() != raw["auth_key"]:
                self._drop(known.job)  # it was deleted: this is another job of that name
            view = JobView.from_json(raw, self.views.get(raw["job"]))
            going[view.job] = not view.over
            if view != self.views.get(view.job):
                self.views[view.job] = view
                changed.append(view)
        for job in self.views.keys() - going.keys():
            self._drop(job)
        self._informed = True
        self._jobs(going)
        for view in changed:
            self._changed(view)
        self._news.set()

    def _drop(self, job: str) -> None:
        del self.views[job]
        self._met.pop(job, None)
        self._dropped(job)

    def _beat(self) -> None:
        path = f"/internal/v1/nodes/{quote(self._node, safe='')}"
        while True:
            self._hurry.clear()
            new, self._new = self._new, {}
            clients = {job: sorted(names) for job, names in new.items()}
            try:
                self._coordinator.json(
                    "POST", path, {**self._urls, "clients": clients}, timeout=5.0
                )
                self._answered = time.monotonic()
            except HttpError as e:
                log.warning("heartbeat refused: %s", e)
            except Unavailable:
                for job, names in new.items():
                    self._new.setdefault(job, set()).update(names)
            if self._hurry.wait(BEAT_SECONDS):
                gevent.sleep(HURRY_SECONDS)  # let a crowd gather before telling of it
