"""The coordinator as a whole: its jobs, its nodes, and the passing of time.

Why: HTTP handlers find a job here and nothing else; one alarm serves all
deadlines. Restarted, it goes on with every job from the store. It must not know
HTTP, nor what happens inside a round.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from functions.coordinator import jobs as jobfile
from functions.coordinator.alarm import Alarm
from functions.coordinator.authority import Guard
from functions.coordinator.engine import Connect, Engine
from functions.coordinator.initial import Read
from functions.coordinator.leaving import Leaving
from functions.coordinator.nodes import NodeTable
from functions.coordinator.problems import Refused
from functions.coordinator.records import JobRecord, JobState, Phase, RoundSummary
from functions.coordinator.runtime import Job
from functions.coordinator.settings import CoordinatorSettings
from functions.coordinator.starting import Starter
from functions.coordinator.state import StateStore
from functions.coordinator.view import job_head, job_status, job_view
from functions.coordinator.watch import Revisions
from lifl.auth import MIN_KEY_BYTES
from lifl.dataplane.registration import Registration
from lifl.errors import Unavailable
from lifl.settings import FunctionSettings

log = logging.getLogger("lifl.coordinator")

IDLE_SECONDS = 60.0
CONNECT_SECONDS = 1.0
STOP_SECONDS = 8.0
STOP_PAUSE = 0.05
EVALUATED_SECONDS = 0.5


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
    """All jobs. Methods may be called from any thread."""

    def __init__(self, settings: CoordinatorSettings, store: StateStore, connect: Connect) -> None:
        self.settings = settings
        self.store = store
        self.revisions = Revisions(self._watch_answer)
        self.nodes = NodeTable(settings.node_timeout)
        self.engines: dict[str, Engine] = {}
        self._lock = threading.Lock()
        self._records: dict[str, JobRecord] = {}
        self._jobs: dict[str, Job] = {}
        self._receiving: set[str] = set()
        self._leaving = Leaving(store, settings.checkpoints)
        self._alarm = Alarm(self._tick, self._overslept)
        self._guard = Guard(store.confirm)
        self._starter = Starter(settings, store, self.revisions, connect, self._alarm.ring)

    def start(self) -> None:
        """Go on with what the store has; raises Unavailable."""
        for record in self.store.jobs():
            if record.state is JobState.DELETED:
                self._leaving.remember(record)
                continue
            self._records[record.name] = record
            if record.schema is not None:
                self._resume(record)
        expected = {n for job in self._jobs.values() for n in job.nodes()}
        self.nodes.expect(expected, time.monotonic())
        self._alarm.start()
        self._guard.start()

    def close(self) -> None:
        """Let watchers go, end all threads and close the store."""
        self.revisions.close()
        self._alarm.close()
        self._guard.close()
        engines = list(self.engines.values())
        for engine in engines:
            engine.stop()
        for engine in engines:
            engine.close()
        self.store.close()

    # -- jobs -----------------------------------------------------------------

    def job(self, name: str) -> Job:
        """Return a running job, or one that has run; raises Refused 404 or 409."""
        job = self._jobs.get(name)
        if job is None:
            self.record(name)
            raise Refused(409, "no-model-yet", f"job {name} waits for its initial model")
        return job

    def record(self, name: str) -> JobRecord:
        """Return a job's record; raises Refused 404."""
        job = self._jobs.get(name)
        record = job.record if job is not None else self._records.get(name)
        if record is None:
            self.store.confirm()  # a successor may know it
            if name in self._leaving:
                raise Refused(404, "job-deleted", f"job {name} is being deleted")
            raise Refused(404, "no-such-job", f"there is no job {name[:80]!r}")
        return record

    def submit(self, document: Any, owner: str = "") -> tuple[JobRecord, bool]:
        """Take a job file's content; the job starts when its model is there.

        Return its record, and whether it is new: the same content of the same
        ``owner``, if that is not empty, is the same job.

        Raises
        ------
        Refused
            422 ``invalid-job``, 409 ``job-exists`` or ``other-spec``.
        Unavailable
            while a job of that name is being deleted.
        """
        spec = jobfile.parse(document)
        with self._lock:
            known = self._records.get(spec.name)
            if known is not None and owner and known.owner == owner:
                if known.spec != document:
                    raise Refused(409, "other-spec", f"job {spec.name} cannot be changed any more")
                return self.record(spec.name), False
            if spec.name in self._leaving:
                raise Unavailable(f"a job {spec.name!r} is being deleted; submit in a moment")
            record = JobRecord(
                name=spec.name,
                spec=document,
                created=time.time(),
                auth_key=secrets.token_hex(MIN_KEY_BYTES),
                domain_uid=self._uid(),
                owner=owner,
            )
            if spec.name in self._records or not self.store.create_job(record):
                raise Refused(
                    409,
                    "job-exists",
                    f"there is a job {spec.name!r} already; choose another name",
                    where="metadata.name",
                )
            self._records[spec.name] = record
        return record, True

    def receive_model(self, name: str, length: int, read: Read) -> JobRecord:
        """Take a job's initial model and start the job.

        Raises
        ------
        Refused
            404, 409 ``model-exists`` or ``model-on-its-way``, 413 ``too-large``.
        UpdateError
            422 if it is not a usable safetensors document.
        """
        limit = self.settings.max_model_bytes
        if length > limit:
            raise Refused(413, "too-large", f"{length} bytes; at most {limit} are taken")
        with self._lock:
            if self.record(name).state is not JobState.SUBMITTED:
                raise Refused(409, "model-exists", f"job {name} has its model already")
            if name in self._receiving:
                raise Refused(409, "model-on-its-way", f"job {name}'s model is being received")
            self._receiving.add(name)
        try:
            record = self._starter.receive(self.record(name), length, read)
            with self._lock:
                self._records[name] = record
                self._resume(record)
        finally:
            self._receiving.discard(name)
        self.revisions.bump()
        self._alarm.ring()
        return record

    def stop(self, name: str) -> JobRecord:
        """End a job for good, after the version that is being made; nothing happens if it is over.

        Raises
        ------
        Unavailable
            if that takes longer than STOP_SECONDS.
        """
        job = self._jobs.get(name)
        if job is not None:
            deadline = time.monotonic() + STOP_SECONDS
            while True:
                try:
                    job.end(Phase.STOPPED, "stopped by request")
                except Unavailable:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(STOP_PAUSE)
                else:
                    return job.record
        with self._lock:
            record = replace(self.record(name), state=JobState.STOPPED)
            self.store.put_job(record)
            self._records[name] = record
        return record

    def delete(self, name: str, owner: str = "") -> None:
        """End a job and forget all of it; its name is free when no node has its pool any more.

        With an ``owner`` only if it is the job's.

        Raises
        ------
        Refused
            404, 409 ``other-owner``.
        Unavailable
            if something is being made of the job just now.
        """
        with self._lock:
            record = self.record(name)
            if owner and record.owner != owner:
                raise Refused(409, "other-owner", f"job {name} is somebody else's")
            if name in self._receiving:
                raise Unavailable(f"job {name}'s model is being received; delete in a moment")
            self._receiving.add(name)  # no model and no other deletion comes in between
        try:
            record = self.stop(name)
            engine, job = self.engines.get(name), self._jobs.get(name)
            if engine is not None:
                engine.stop()
                engine.close()
            if job is None:
                self._leaving.remove(record)
            else:
                job.remove(self._leaving.remove)
            with self._lock:
                for known in (self._records, self._jobs, self.engines):
                    known.pop(name, None)
            pooled = self._leaving.clean(name)
        finally:
            self._receiving.discard(name)
        if pooled:
            self.revisions.bump()
        else:
            self.given_up(name)

    def given_up(self, name: str) -> bool:
        """No node has a deleted job's pool any more; return whether that was waited for."""
        with self._lock:
            known = self._leaving.given_up(name)
        if known:
            self.revisions.bump()
        return known

    def status(self, name: str) -> dict[str, Any]:
        """Return a job's progress; raises Refused 404."""
        job = self._jobs.get(name)
        return job_head(self.record(name)) if job is None else job_status(job)

    def list_jobs(self) -> list[dict[str, Any]]:
        """Return all jobs' progress, oldest first."""
        return [self.status(name) for name in list(self._records)]

    def history(self, name: str, after: int = -1) -> list[RoundSummary]:
        """Return a job's committed rounds of versions above ``after``; raises Refused 404."""
        self.record(name)
        return self.store.history(name, after)

    def evaluate(self, name: str, version: int, scores: Mapping[str, float | None]) -> None:
        """Record how good a version is; raises Refused 404."""
        self.record(name)
        found = self.store.add_evaluation(name, version, scores.get("accuracy"), scores.get("loss"))
        if not found:
            raise Refused(404, "no-such-version", f"job {name} has no committed version {version}")
        job = self._jobs.get(name)
        if job is not None:
            job.ratings += 1
            self.revisions.bump_within(EVALUATED_SECONDS)

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
        job = self._jobs.get(name)
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
        self.job(name).planned(round_number, plan)

    # -- inside ---------------------------------------------------------------

    def _uid(self) -> int:
        """Return a user that no other job has, and no deleted one while it may have processes."""
        own = os.geteuid()
        if own != 0:
            return own
        used = [r.domain_uid for r in self._records.values()]
        return max([self.settings.domain_uid - 1, *used, *self._leaving.uids()]) + 1

    def _resume(self, record: JobRecord) -> None:
        """Load a job and start its data thread."""
        job, engine = self._starter.start(record)
        if engine is not None:
            self.engines[record.name] = engine
        self._jobs[record.name] = job

    def _watch_answer(self, revision: int) -> bytes:
        with self._lock:
            upload, public, nodes = self.nodes.urls(), self.nodes.public(), self.nodes.to_json()
            jobs, leaving = list(self._jobs.values()), self._leaving.names
        views = [job_view(job, upload, public) for job in jobs]
        answer = {"rev": revision, "jobs": views, "nodes": nodes, "leaving": leaving}
        return json.dumps(answer, separators=(",", ":")).encode()

    def _lose(self, node: str) -> None:
        log.warning("node %s is lost", node)
        for job in list(self._jobs.values()):
            job.node_lost(node)
        self.revisions.bump()

    # -- time -----------------------------------------------------------------

    def _tick(self) -> float:
        """Do what is due; return how many seconds until something else is."""
        with self._lock:
            gone = self.nodes.expired(time.monotonic())
        for node in gone:
            self._lose(node)
        dues = [job.tick() for job in list(self._jobs.values())]
        pauses = [due - time.time() for due in dues if due is not None]
        with self._lock:
            silent = self.nodes.due()
        if silent is not None:
            pauses.append(silent - time.monotonic())
        return max(0.01, min(pauses, default=IDLE_SECONDS))

    def _overslept(self, seconds: float) -> None:
        with self._lock:
            self.nodes.forgive(seconds)
