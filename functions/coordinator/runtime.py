"""One running job: its lock, its round machine, its store, and who is told.

Why: every event, from HTTP, the timer or the data thread, goes the same way:
decide in memory under the job's lock, write through, then tell watchers (``outside``). It
must not touch shared memory or model files.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from functions.coordinator import losses
from functions.coordinator.jobs import JobSpec
from functions.coordinator.outcomes import Counted, Made, ModelPlace, Tell
from functions.coordinator.outside import Outside
from functions.coordinator.problems import Refused
from functions.coordinator.records import (
    Claim,
    JobRecord,
    JobState,
    Phase,
    RoundRecord,
    Transfer,
    VersionRecord,
)
from functions.coordinator.rounds import RoundMachine
from functions.coordinator.state import Change, Commit, Snapshot, StateStore
from functions.coordinator.summaries import summarize
from functions.coordinator.updates import ClaimRequest, CoverRefused, Place, Updates
from functions.coordinator.watch import Revisions
from lifl import crash
from lifl.errors import ConfigError, LiflError, Unavailable
from lifl.update import Schema

log = logging.getLogger("lifl.coordinator")

_ENDED = {Phase.DONE: JobState.DONE, Phase.STOPPED: JobState.STOPPED, Phase.FAILED: JobState.FAILED}


class Job:
    """A running job. All methods may be called from any thread."""

    def __init__(
        self,
        record: JobRecord,
        spec: JobSpec,
        store: StateStore,
        revisions: Revisions,
        snapshot: Snapshot,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if record.schema is None or snapshot.version is None or snapshot.round is None:
            raise LiflError(f"job {record.name} has no model yet")
        self.name = record.name
        self.record = record
        self.spec = spec
        self.schema = Schema.from_json(record.schema)
        self.version = snapshot.version
        self._before = snapshot.before
        self.model: ModelPlace | None = None
        self._store = store
        self._revisions = revisions
        self._outside = Outside(record.name, store, revisions)
        self.wakers = self._outside.wakers
        self._clock = clock
        self._lock = threading.RLock()
        self._boots: dict[str, str] = {}
        self.ratings = 0
        self.rounds = RoundMachine(
            spec.rules,
            snapshot.round,
            claims=snapshot.claims,
            transfers=snapshot.transfers,
            known=snapshot.clients,
        )
        self._updates = Updates(self.rounds)

    @property
    def over(self) -> bool:
        """Whether no round follows."""
        return self.rounds.phase.over

    @property
    def assignment(self) -> int:
        """Return the present attempt's number in the data plane."""
        return self.rounds.record.assignment

    @contextmanager
    def locked(self) -> Iterator[RoundMachine]:
        """Keep the machine still while it is read."""
        with self._lock:
            yield self.rounds

    def nodes(self) -> set[str]:
        """Return the nodes that accepted updates lie on."""
        with self._lock:
            return {c.at for c in self.rounds.book.sealed()}

    # -- events ---------------------------------------------------------------

    def claim(self, ask: ClaimRequest) -> tuple[Claim, bool]:
        """Decide on an update: its claim, and whether it is a duplicate; raises Refused."""
        with self._judging():
            claim, duplicate, effects = self._updates.claim(ask)
            self._outside.confirm_unless(effects)
            self._outside.apply(effects)
        crash.point("claimed")
        return claim, duplicate

    def sealed(self, serial: int, place: Place, digest: str | None, boot: str | None) -> Tell:
        """Count an update; raises Refused.

        ``boot`` names the gateway's life: one that has been succeeded since,
        whose successor's inventory lacks the update, comes too late. Watchers are
        told by what is returned: call it when the gateway has its answer, for
        it is the one everybody waits for.
        """
        with self._judging():
            self._check_boot(place.node, boot)
            effects = self._updates.sealed(serial, place, digest, self._clock())
            tell = self._outside.write_now(effects)
        crash.point("sealed")
        return tell

    def count(
        self, ask: ClaimRequest, assignment: int, place: Place, digest: str, boot: str | None
    ) -> Counted:
        """Claim and count an update at once; raises Refused. See :meth:`sealed`."""
        with self._judging():
            self._check_boot(place.node, boot)
            claim, duplicate, effects = self._updates.count(
                ask, assignment, place, digest, self._clock()
            )
            tell = self._outside.write_now(effects)
        crash.point("sealed")
        return Counted(claim, duplicate, tell)

    def aborted(self, serial: int) -> None:
        """Open a claim again whose upload failed."""
        with self._lock:
            self._outside.apply(self._updates.aborted(serial))

    def transfer(self, ask: Transfer) -> bool:
        """Let a partial go to another node; True if it is there already; raises Refused."""
        with self._judging(), self._lossy():
            arrived, effects = self._updates.transfer(ask, self._clock())
            self._outside.confirm_unless(effects)
            self._outside.apply(effects)
            return arrived

    def transferred(self, assignment: int, serial: int, place: Place, boot: str | None) -> None:
        """Count a partial as being on the node it was sent to; ``boot`` and errors as above."""
        with self._judging(), self._lossy():
            self._check_boot(place.node, boot)
            effects = self._updates.transferred(assignment, serial, place, self._clock())
            self._outside.confirm_unless(effects)
            self._outside.apply(effects)

    def partial(self, assignment: int, cover: Sequence[int]) -> bool:
        """Decide whether a partial that reached the coordinator is kept."""
        with self._lock:
            kept, effects = self._updates.partial(assignment, cover, self._clock())
            self._outside.confirm_unless(effects)
            self._outside.apply(effects)
            return kept

    def planned(self, round_number: int, plan: Mapping[str, Any]) -> None:
        """Open the round under a plan; raises Refused."""
        with self._lock:
            if round_number != self.rounds.record.round:
                raise Refused(409, "wrong-round", f"the job is in round {self.rounds.record.round}")
            self._outside.apply(self.rounds.planned(plan, self._clock()))
        crash.point("opened")

    def learn(self, clients: Iterable[str]) -> None:
        """Note clients that were seen."""
        with self._lock:
            self._outside.apply(self.rounds.learn(clients, self._clock()))

    def tick(self) -> float | None:
        """Let time pass; return when to call next (unix time)."""
        with self._lock:
            self._outside.apply(self.rounds.tick(self._clock()))
            return self.rounds.due()

    def node_lost(self, node: str) -> None:
        """Ask those clients again whose accepted updates were on ``node``."""
        with self._lock:
            self._outside.apply(losses.node_lost(self.rounds, node, self._clock()))

    def inventory(self, node: str, serials: Iterable[int], boot: str | None) -> list[int]:
        """Compare with what a gateway has; return the serials that nobody waits for."""
        with self._lock:
            if boot is not None:
                self._boots[node] = boot
            unknown, effects = losses.inventory(self.rounds, node, serials, self._clock())
            self._outside.confirm_unless(effects)
            self._outside.apply(effects)
            return unknown

    def forget_held(self) -> None:
        """Note that the partials held so far will come again, and no version is being made."""
        with self._lock:
            if self.rounds.phase is Phase.COMMITTING:
                self.rounds.not_committed()
            self.rounds.forget_held()

    def end(self, phase: Phase, detail: str = "") -> None:
        """End the job, for good; nothing happens if it is over."""
        with self._lock:
            if self.over:
                return
            if self.rounds.phase is Phase.COMMITTING and phase is Phase.STOPPED:
                raise Unavailable("a version is being made; stop again in a moment")
            effects = self.rounds.end(phase)
            self.record = replace(self.record, state=_ENDED[phase], detail=detail)
            self._store.put_job(self.record)
            self._outside.apply(effects)

    def remove(self, forget: Callable[[JobRecord], None]) -> None:
        """Forget the job, which is over: ``forget`` removes it from the store.

        Who holds this object still writes nothing any more: the name may be another job's.
        """
        with self._lock:
            forget(self.record)
            self._outside.removed = True

    # -- versions -------------------------------------------------------------

    def begin_commit(self) -> bool:
        """Whether the round is complete; if so, nothing changes it until the commit has ended."""
        with self._lock:
            if not self.rounds.ready():
                return False
            self.rounds.committing()
            return True

    def abandon_commit(self) -> None:
        """The version could not be made; it will be tried again."""
        with self._lock:
            self.rounds.not_committed()

    def record_commit(self, made: Made) -> RoundRecord:
        """Put a version in force, durably; return the round that follows."""
        with self._lock:
            now, present = self._clock(), self.rounds.record
            following = self.rounds.following(now)
            version = VersionRecord(
                version=self.rounds.version + 1,
                round=present.round,
                assignment=present.assignment,
                cover=made.cover,
                weight=made.weight,
                model_file=made.model_file,
                vector_files=made.vector_files,
                created=now,
                kept=made.kept,
                serial=made.serial,
            )
            done = following.phase is Phase.DONE
            record = replace(self.record, state=JobState.DONE) if done else self.record
            change = Change(round=following, forget_before=present.assignment)
            summary = summarize(present, self.rounds.book.sealed(), version, made.summed)
            self._outside.flush()
        self._store.commit(Commit(record, version, change, summary))
        self._before, self.record, self.version = self.version, record, version
        return following

    def finish_commit(self, following: RoundRecord, model: ModelPlace | None) -> None:
        """Go on to the round that follows, with the new model in its place."""
        with self._lock:
            self.model = model
            self._outside.apply(self.rounds.committed(following, self._clock()))

    @property
    def last_round(self) -> bool:
        """Whether the job is over when the present round's version is made."""
        return self.rounds.last

    def kept(self, model_file: str) -> None:
        """The present version's files are on the disk now."""
        version = replace(self.version, kept=True, model_file=model_file)
        self._store.keep(self.name, version)
        self.version = version

    def fall_back(self) -> None:
        """Go on with the version before, for the present one is lost.

        Clients have seen its number, and perhaps it, so the one before takes the next number,
        and the round that was to make that is skipped.

        Raises
        ------
        ConfigError
            if there is none before.
        """
        with self._lock:
            lost, before, now = self.version, self._before, self._clock()
            if before is None or not before.kept:
                raise ConfigError(f"version {lost.version} was lost, and there is none before it")
            version = replace(before, version=lost.version + 1, created=now)
            present, following = self.rounds.record, self.rounds.skipping(now)
            change = Change(round=following, forget_before=present.assignment + 1)
            self._outside.flush()
            self._store.commit(Commit(self.record, version, change))
            self.version, self._before = version, None
            self._outside.apply(self.rounds.skipped(following, now))
        log.warning(
            "job %s: version %d was lost before it was on the disk; version %d is version %d again",
            self.name,
            lost.version,
            version.version,
            before.version,
        )

    def published(self, model: ModelPlace) -> None:
        """The present version lies in shared memory (again)."""
        self.model = model
        self._revisions.bump()

    # -- inside ---------------------------------------------------------------

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Keep the lock; refuse as the authority only: what is refused is thrown away."""
        with self._lock:
            try:
                yield
            except Refused:
                self._store.confirm()
                raise

    def _check_boot(self, node: str, boot: str | None) -> None:
        if boot is not None and self._boots.get(node, boot) != boot:
            raise Refused(409, "claim-gone", f"gateway {node} was restarted since")

    @contextmanager
    def _lossy(self) -> Iterator[None]:
        """Apply what a refused partial has cost."""
        try:
            yield
        except CoverRefused as e:
            self._outside.apply(e.effects)
            raise
