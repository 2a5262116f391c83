"""From a job's record to its data thread: version 0 made durable, rounds and engine begun.

Why: a job begins when its model has come, and again whenever the coordinator was
restarted; both go the same way. It must not know HTTP, nor which jobs there are.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, replace

from functions.coordinator import jobs as jobfile
from functions.coordinator.checkpoint import Checkpoints
from functions.coordinator.committer import Committer
from functions.coordinator.engine import Connect, Engine
from functions.coordinator.geometry import available_memory, geometry
from functions.coordinator.initial import Read, receive
from functions.coordinator.records import JobRecord, JobState, Phase, VersionRecord
from functions.coordinator.rounds import RoundMachine
from functions.coordinator.runtime import Job
from functions.coordinator.settings import CoordinatorSettings
from functions.coordinator.state import Commit, StateStore
from functions.coordinator.watch import Revisions
from lifl.errors import LiflError

log = logging.getLogger("lifl.coordinator")


class Starter:
    """Begins jobs. ``wake`` is called when one of them has something to do at a time."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        store: StateStore,
        revisions: Revisions,
        connect: Connect,
        wake: Callable[[float], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._revisions = revisions
        self._connect = connect
        self._wake = wake
        self._writer = secrets.token_hex(4)

    def receive(self, record: JobRecord, length: int, read: Read) -> JobRecord:
        """Make version 0 of the model that ``read`` brings, durably; return the job's new record.

        Raises
        ------
        UpdateError
            422 if it is not a usable safetensors document.
        """
        spec, now = self._spec(record), time.time()
        model = receive(self._checkpoints(record), length, read)
        sizes = geometry(model.schema, spec.rules.selection, available_memory(), spec.slots)
        pool = asdict(sizes)
        del pool["lanes"]
        record = replace(
            record, state=JobState.RUNNING, schema=model.schema.to_json(), geometry=pool
        )
        version = VersionRecord(0, 0, 0, (), 0.0, model.file, {}, now)
        _, effects = RoundMachine.first(spec.rules, now, spec.names)
        self._store.commit(Commit(record, version, effects.change))
        return record

    def start(self, record: JobRecord) -> tuple[Job, Engine | None]:
        """Load a job and start its data thread; without one the job has failed."""
        spec, snapshot = self._spec(record), self._store.load(record.name)
        job = Job(record, spec, self._store, self._revisions, snapshot)
        job.wakers.append(self._wake)
        try:
            committer = Committer(
                job,
                self._checkpoints(record),
                keep=self._settings.keep_versions,
                behind=self._settings.checkpoint_behind,
            )
        except LiflError as e:
            log.warning("job %s cannot go on: %s", record.name, e)
            job.end(Phase.FAILED, str(e))
            return job, None
        engine = Engine(job, self._connect, committer, node=self._settings.function.node)
        engine.start()
        return job, engine

    def _spec(self, record: JobRecord) -> jobfile.JobSpec:
        spec = jobfile.parse(record.spec)
        return replace(spec, rules=replace(spec.rules, stall=self._settings.round_stall))

    def _checkpoints(self, record: JobRecord) -> Checkpoints:
        return Checkpoints(self._settings.checkpoints, record.name, self._writer)
