"""The coordinator as a whole: its jobs, its nodes, and the passing of time.

Why: what nodes do matters to jobs, and both to whoever watches; one alarm serves all
deadlines. Restarted, it goes on with every job from the store. It must not know
HTTP, nor what happens inside a round.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from functions.coordinator.alarm import Alarm
from functions.coordinator.authority import Guard
from functions.coordinator.engine import Connect
from functions.coordinator.lifecycle import Jobs
from functions.coordinator.nodes import NodeTable
from functions.coordinator.problems import Refused
from functions.coordinator.settings import CoordinatorSettings
from functions.coordinator.state import StateStore
from functions.coordinator.view import job_view
from functions.coordinator.watch import Revisions
from lifl.dataplane.registration import Registration
from lifl.settings import FunctionSettings

log = logging.getLogger("lifl.coordinator")

IDLE_SECONDS = 60.0
CONNECT_SECONDS = 1.0


def connect_to_agent(function: FunctionSettings) -> Connect:
    """Return how a job's data thread registers with this node's agent."""

    def connect(job: str) -> Registration:
        return Registration.open(
            function.agent_socket,
            kind="coordinator",
            name=function.name,
            domain=job,
            token=function.registration,
            timeout=CONNECT_SECONDS,
        )

    return connect


class Coordinator:
    """All of it; ``jobs`` are found there. Methods may be called from any thread."""

    def __init__(self, settings: CoordinatorSettings, store: StateStore, connect: Connect) -> None:
        self.settings = settings
        self.store = store
        self.revisions = Revisions(self._watch_answer)
        self.nodes = NodeTable(settings.node_timeout)
        self._lock = threading.Lock()
        """Of the nodes."""
        self._alarm = Alarm(self._tick, self._overslept)
        self._guard = Guard(store.confirm)
        self.jobs = Jobs(settings, store, self.revisions, connect, self._alarm.ring)

    def start(self) -> None:
        """Go on with what the store has; raises Unavailable."""
        self.jobs.start()
        expected = {n for job in self.jobs for n in job.nodes()}
        self.nodes.expect(expected, time.monotonic())
        self._alarm.start()
        self._guard.start()

    def close(self) -> None:
        """Let watchers go, end all threads and close the store."""
        self.revisions.close()
        self._alarm.close()
        self._guard.close()
        self.jobs.close()
        self.store.close()

    # -- nodes ----------------------------------------------------------------

    def heartbeat(
        self,
        node: str,
        url: str,
        info: Mapping[str, Any],
        clients: Mapping[str, Sequence[str]],
        public: str = "",
    ) -> None:
        """Note that a node is alive, where it is, and which clients its gateway has met."""
        with self._lock:
            news = self.nodes.heartbeat(node, url, info, time.monotonic(), public)
        if news:
            log.info("node %s is at %s", node, url)
            self.revisions.bump()
            self._alarm.ring()
        for name, names in clients.items():
            self.learn(name, names)

    def heard(self, node: str) -> None:
        """Note that a node's gateway asked for something: on a busy machine heartbeats are late."""
        with self._lock:
            self.nodes.heard(node, time.monotonic())

    def learn(self, name: str, clients: Sequence[str]) -> None:
        """Note clients that were met; of jobs that are not running, nothing."""
        job = self.jobs.find(name)
        if job is not None and clients:
            job.learn(clients)
            self._alarm.ring()  # enough may be known to count the grace from now

    def publish(self, node: str, url: str) -> None:
        """Note where clients reach a node's gateway; raises Refused 404 if there is none."""
        with self._lock:
            news = self.nodes.tell(node, url)
        if news is None:
            raise Refused(404, "no-such-node", f"node {node[:80]!r} has not reported")
        if news:
            log.info("clients reach node %s at %s", node, url or "its own URL")
            self.revisions.bump()

    def remove_node(self, node: str) -> bool:
        """Give a node up; return whether it was known."""
        with self._lock:
            known = self.nodes.remove(node)
        self._lose(node)
        return known

    def planned(self, name: str, round_number: int, plan: Mapping[str, Any]) -> None:
        """Open a job's round; raises Refused."""
        self.jobs.get(name).planned(round_number, plan)

    # -- inside ---------------------------------------------------------------

    def _watch_answer(self, revision: int) -> bytes:
        with self._lock:
            upload, public, nodes = self.nodes.urls(), self.nodes.public(), self.nodes.to_json()
        jobs, leaving = self.jobs.present()
        views = [job_view(job, upload, public) for job in jobs]
        answer = {"rev": revision, "jobs": views, "nodes": nodes, "leaving": leaving}
        return json.dumps(answer, separators=(",", ":")).encode()

    def _lose(self, node: str) -> None:
        log.warning("node %s is lost", node)
        for job in self.jobs:
            job.node_lost(node)
        self.revisions.bump()

    # -- time -----------------------------------------------------------------

    def _tick(self) -> float:
        """Do what is due; return how many seconds until something else is."""
        with self._lock:
            gone = self.nodes.expired(time.monotonic())
        for node in gone:
            self._lose(node)
        dues = [job.tick() for job in self.jobs]
        pauses = [due - time.time() for due in dues if due is not None]
        with self._lock:
            silent = self.nodes.due()
        if silent is not None:
            pauses.append(silent - time.monotonic())
        return max(0.01, min(pauses, default=IDLE_SECONDS))

    def _overslept(self, seconds: float) -> None:
        with self._lock:
            self.nodes.forgive(seconds)
