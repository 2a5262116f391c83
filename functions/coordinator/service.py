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
from dataclasses import asdict, replace
from typing import Any

from functions.coordinator import jobs as jobfile
from functions.coordinator.alarm import Alarm
from functions.coordinator.checkpoint import Checkpoints
from functions.coordinator.engine import Connect, Engine
from functions.coordinator.geometry import available_memory, geometry
from functions.coordinator.initial import Read, receive
from functions.coordinator.nodes import NodeTable
from functions.coordinator.problems import Refused
from functions.coordinator.records import JobRecord, JobState, Phase, RoundSummary, VersionRecord
from functions.coordinator.rounds import RoundMachine
from functions.coordinator.runtime import Job
from functions.coordinator.settings import CoordinatorSettings
from functions.coordinator.state import Commit, StateStore
from functions.coordinator.view import job_head, job_status, job_view
from functions.coordinator.watch import Revisions
from lifl.auth import MIN_KEY_BYTES
from lifl.dataplane.registration import Registration
from lifl.errors import LiflError, Unavailable
from lifl.settings import FunctionSettings

log = logging.getLogger("lifl.coordinator")

IDLE_SECONDS = 60.0
CONNECT_SECONDS = 1.0
STOP_SECONDS = 8.0
STOP_PAUSE = 0.05


def connect_to_agent(function: FunctionSettings) -> Connect:
    """Return how a job's data thread registers with this node's agent."""

    def connect(job: str) -> Registration:
        return Registration.open(
            function.agent_socket,
            kind="coordinator",
            name=function.name,
            domain=job,
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
        self._connect = connect
        self._lock = threading.Lock()
        self._records: dict[str, JobRecord] = {}
        self._jobs: dict[str, Job] = {}
        self._receiving: set[str] = set()
        self._alarm = Alarm(self._tick, self._overslept)

    def start(self) -> None:
        """Go on with what the store has; raises Unavailable."""
        for record in self.store.jobs():
            self._records[record.name] = record
            if record.schema is not None:
                self._resume(record)
        expected = {n for job in self._jobs.values() for n in job.nodes()}
        self.nodes.expect(expected, time.monotonic())
        self._alarm.start()

    def close(self) -> None:
        """Let watchers go, end all threads and close the store."""
        self.revisions.close()
        self._alarm.close()
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
            raise Refused(404, "no-such-job", f"there is no job {name[:80]!r}")
        return record

    def submit(self, document: Any) -> JobRecord:
        """Take a job file's content; the job starts when its model is there.

        Raises
        ------
        Refused
            422 ``invalid-job``, 409 ``job-exists``.
        """
        spec = jobfile.parse(document)
        with self._lock:
            record = JobRecord(
                name=spec.name,
                spec=document,
                created=time.time(),
                auth_key=secrets.token_hex(MIN_KEY_BYTES),
                domain_uid=self._uid(len(self._records)),
            )
            if spec.name in self._records or not self.store.create_job(record):
                raise Refused(
                    409,
                    "job-exists",
                    f"there is a job {spec.name!r} already; choose another name",
                    where="metadata.name",
                )
            self._records[spec.name] = record
        return record

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
            return self._begin(self.record(name), length, read)
        finally:
            self._receiving.discard(name)

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

    def status(self, name: str) -> dict[str, Any]:
        """Return a job's progress; raises Refused 404."""
        job = self._jobs.get(name)
        return job_head(self.record(name)) if job is None else job_status(job)

    def list_jobs(self) -> list[dict[str, Any]]:
        """Return all jobs' progress, oldest first."""
        return [self.status(name) for name in list(self._records)]

    def history(self, name: str) -> list[RoundSummary]:
        """Return a job's committed rounds; raises Refused 404."""
        self.record(name)
        return self.store.history(name)

    def evaluate(self, name: str, version: int, scores: Mapping[str, float | None]) -> None:
        """Record how good a version is; raises Refused 404."""
        self.record(name)
        found = self.store.add_evaluation(name, version, scores.get("accuracy"), scores.get("loss"))
        if not found:
            raise Refused(404, "no-such-version", f"job {name} has no committed version {version}")

    # -- nodes ----------------------------------------------------------------

    def heartbeat(
        self,
        node: str,
        url: str,
        info: Mapping[str, Any],
        clients: Mapping[str, Sequence[str]],
    ) -> None:
        """Note that a node is alive, and which clients its gateway has met."""
        with self._lock:
            news = self.nodes.heartbeat(node, url, info, time.monotonic())
        if news:
            log.info("node %s is at %s", node, url)
            self.revisions.bump()
            self._alarm.ring()
        for name, names in clients.items():
            self.learn(name, names)

    def learn(self, name: str, clients: Sequence[str]) -> None:
        """Note clients that were met; of jobs that are not running, nothing."""
        job = self._jobs.get(name)
        if job is not None and clients:
            job.learn(clients)
            self._alarm.ring()  # enough may be known to count the grace from now

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

    def _uid(self, ordinal: int) -> int:
        own = os.geteuid()
        return self.settings.domain_uid + ordinal if own == 0 else own

    def _spec(self, record: JobRecord) -> jobfile.JobSpec:
        spec = jobfile.parse(record.spec)
        return replace(spec, rules=replace(spec.rules, stall=self.settings.round_stall))

    def _begin(self, record: JobRecord, length: int, read: Read) -> JobRecord:
        """Make version 0 durable and start."""
        spec, now = self._spec(record), time.time()
        checkpoints = Checkpoints(self.settings.checkpoints, record.name)
        model = receive(checkpoints, length, read)
        sizes = geometry(model.schema, spec.rules.selection, available_memory(), spec.slots)
        pool = asdict(sizes)
        del pool["lanes"]
        record = replace(
            record, state=JobState.RUNNING, schema=model.schema.to_json(), geometry=pool
        )
        version = VersionRecord(0, 0, 0, (), 0.0, model.file, {}, now)
        _, effects = RoundMachine.first(spec.rules, now, spec.names)
        self.store.commit(Commit(record, version, effects.change))
        with self._lock:
            self._records[record.name] = record
            self._resume(record)
        self.revisions.bump()
        self._alarm.ring()
        return record

    def _resume(self, record: JobRecord) -> None:
        """Load a job and start its data thread."""
        job = Job(
            record, self._spec(record), self.store, self.revisions, self.store.load(record.name)
        )
        job.wakers.append(self._alarm.ring)
        checkpoints = Checkpoints(self.settings.checkpoints, record.name)
        try:
            engine = Engine(
                job,
                self._connect,
                checkpoints,
                node=self.settings.function.node,
                keep=self.settings.keep_versions,
            )
        except LiflError as e:
            log.warning("job %s cannot go on: %s", record.name, e)
            job.end(Phase.FAILED, str(e))
        else:
            self.engines[record.name] = engine
            engine.start()
        self._jobs[record.name] = job

    def _watch_answer(self, revision: int) -> bytes:
        with self._lock:
            upload, nodes = self.nodes.urls(), self.nodes.to_json()
            jobs = list(self._jobs.values())
        views = [job_view(job, upload) for job in jobs]
        answer = {"rev": revision, "jobs": views, "nodes": nodes}
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
