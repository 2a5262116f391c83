"""The jobs there are: submitted, begun, stopped, deleted, and found by name.

Why: these are the few events that make or end a job, each with steps that another
thread may fall between: one lock and one record of what is under way keep them apart.
It must not know HTTP or nodes, nor what happens inside a round.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from functions.coordinator import jobs as jobfile
from functions.coordinator.engine import Connect, Engine
from functions.coordinator.initial import Read
from functions.coordinator.leaving import Leaving
from functions.coordinator.problems import Refused
from functions.coordinator.records import JobRecord, JobState, Phase, RoundSummary
from functions.coordinator.runtime import Job
from functions.coordinator.settings import CoordinatorSettings
from functions.coordinator.starting import Starter
from functions.coordinator.state import StateStore
from functions.coordinator.view import job_head, job_status
from functions.coordinator.watch import Revisions
from lifl.auth import MIN_KEY_BYTES
from lifl.errors import Unavailable

STOP_SECONDS = 8.0
STOP_PAUSE = 0.05
EVALUATED_SECONDS = 0.5


class Jobs:
    """All jobs. Methods may be called from any thread.

    ``wake`` is called when one of them has something to do at a time, with the seconds until then.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        store: StateStore,
        revisions: Revisions,
        connect: Connect,
        wake: Callable[[float], None],
    ) -> None:
        self.engines: dict[str, Engine] = {}
        self._settings = settings
        self._store = store
        self._revisions = revisions
        self._wake = wake
        self._lock = threading.Lock()
        self._records: dict[str, JobRecord] = {}
        self._running: dict[str, Job] = {}
        self._receiving: set[str] = set()
        self._leaving = Leaving(store, settings.checkpoints)
        self._starter = Starter(settings, store, revisions, connect, wake)

    def start(self) -> None:
        """Go on with what the store has; raises Unavailable."""
        for record in self._store.jobs():
            if record.state is JobState.DELETED:
                self._leaving.remember(record)
                continue
            self._records[record.name] = record
            if record.schema is not None:
                self._resume(record)

    def close(self) -> None:
        """End all data threads."""
        engines = list(self.engines.values())
        for engine in engines:
            engine.stop()
        for engine in engines:
            engine.close()

    # -- finding them ---------------------------------------------------------

    def __iter__(self) -> Iterator[Job]:
        """Iterate over those that have their model, over or not, as of now."""
        return iter(list(self._running.values()))

    def find(self, name: str) -> Job | None:
        """Return a job that has its model, None if there is no such one."""
        return self._running.get(name)

    def present(self) -> tuple[list[Job], list[str]]:
        """Return the jobs that have their model, and the names on their way out, at one moment."""
        with self._lock:
            return list(self._running.values()), self._leaving.names

    def get(self, name: str) -> Job:
        """Return a running job, or one that has run; raises Refused 404 or 409."""
        job = self._running.get(name)
        if job is None:
            self.record(name)
            raise Refused(409, "no-model-yet", f"job {name} waits for its initial model")
        return job

    def record(self, name: str) -> JobRecord:
        """Return a job's record; raises Refused 404."""
        job = self._running.get(name)
        record = job.record if job is not None else self._records.get(name)
        if record is None:
            self._store.confirm()  # a successor may know it
            if name in self._leaving:
                raise Refused(404, "job-deleted", f"job {name} is being deleted")
            raise Refused(404, "no-such-job", f"there is no job {name[:80]!r}")
        return record

    def status(self, name: str) -> dict[str, Any]:
        """Return a job's progress; raises Refused 404."""
        job = self._running.get(name)
        return job_head(self.record(name)) if job is None else job_status(job)

    def statuses(self) -> list[dict[str, Any]]:
        """Return all jobs' progress, oldest first."""
        return [self.status(name) for name in list(self._records)]

    def history(self, name: str, after: int = -1) -> list[RoundSummary]:
        """Return a job's committed rounds of versions above ``after``; raises Refused 404."""
        self.record(name)
        return self._store.history(name, after)

    def evaluate(self, name: str, version: int, scores: Mapping[str, float | None]) -> None:
        """Record how good a version is; raises Refused 404."""
        self.record(name)
        accuracy, loss = scores.get("accuracy"), scores.get("loss")
        if not self._store.add_evaluation(name, version, accuracy, loss):
            raise Refused(404, "no-such-version", f"job {name} has no committed version {version}")
        job = self._running.get(name)
        if job is not None:
            job.ratings += 1
            self._revisions.bump_within(EVALUATED_SECONDS)

    # -- making and ending them -----------------------------------------------

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
            if spec.name in self._records or not self._store.create_job(record):
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
        limit = self._settings.max_model_bytes
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
        self._revisions.bump()
        self._wake(0.0)
        return record

    def stop(self, name: str) -> JobRecord:
        """End a job for good, after the version that is being made; nothing happens if it is over.

        Raises
        ------
        Unavailable
            if that takes longer than STOP_SECONDS.
        """
        job = self._running.get(name)
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
            self._store.put_job(record)
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
            engine, job = self.engines.get(name), self._running.get(name)
            if engine is not None:
                engine.stop()
                engine.close()
            if job is None:
                self._leaving.remove(record)
            else:
                job.remove(self._leaving.remove)
            with self._lock:
                for known in (self._records, self._running, self.engines):
                    known.pop(name, None)
            pooled = self._leaving.clean(name)
        finally:
            self._receiving.discard(name)
        if pooled:
            self._revisions.bump()
        else:
            self.given_up(name)

    def given_up(self, name: str) -> bool:
        """No node has a deleted job's pool any more; return whether that was waited for."""
        with self._lock:
            known = self._leaving.given_up(name)
        if known:
            self._revisions.bump()
        return known

    # -- inside ---------------------------------------------------------------

    def _uid(self) -> int:
        """Return a user that no other job has, and no deleted one while it may have processes."""
        own = os.geteuid()
        if own != 0:
            return own
        used = [r.domain_uid for r in self._records.values()]
        return max([self._settings.domain_uid - 1, *used, *self._leaving.uids()]) + 1

    def _resume(self, record: JobRecord) -> None:
        """Load a job and start its data thread."""
        job, engine = self._starter.start(record)
        if engine is not None:
            self.engines[record.name] = engine
        self._running[record.name] = job
