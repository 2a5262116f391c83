"""A version made, put in force and shown to readers.

Why: this is the one place that knows the order of these steps, and there are two. With the
checkpoint first, a version that anybody was told of survives a power cut:

    files on the disk → one transaction → model sealed, partials freed

With the checkpoint behind, a round does not wait for the disk:

    model sealed → one transaction → partials freed → ... → files on the disk

Then a version survives the death of any process, out of the pool, but between the last two
steps not that of the pool. If it is lost so, the job goes on with the one before, under the next
number. A job's last version always has its checkpoint first: it is what all was for.

A death before the transaction leaves the round as it was: the agent hands the partials out
again. A death after it leaves partials of an assignment that is over; they are released when
they come again. It must not decide about rounds.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence

from functions.coordinator.checkpoint import Checkpoints
from functions.coordinator.keeper import Keeper
from functions.coordinator.optimizer import Optimizer
from functions.coordinator.outcomes import Made
from functions.coordinator.records import RoundRecord
from functions.coordinator.runtime import Job
from functions.coordinator.shelf import Held, Shelf
from lifl import crash
from lifl.errors import Fenced, StaleObject
from lifl.store import SlotRef


class Committer:
    """One job's versions; its methods are for the job's data thread.

    Raises
    ------
    ConfigError
        if the state of the job's strategy is not on the disk.
    """

    def __init__(self, job: Job, checkpoints: Checkpoints, *, keep: int, behind: bool) -> None:
        self._job = job
        self._checkpoints = checkpoints
        self._behind = behind
        self._keeper = Keeper(job, checkpoints, keep)
        # of a version that may be lost, the state may be too: it is looked at when that is known
        self._optimizer = self._load() if job.version.kept else None

    def open(self, shelf: Shelf) -> SlotRef:
        """Have the present version sealed in the pool: as it was left there, or from the disk.

        Raises
        ------
        ConfigError
            if it is in neither, nor is one before it.
        """
        ref = shelf.find(self._job.version)
        if ref is None and not self._job.version.kept:
            self._job.fall_back()
            self._optimizer = None
            ref = shelf.find(self._job.version)
        if self._optimizer is None:
            self._optimizer = self._load()
        if ref is None:
            return shelf.read(self._job.version, self._checkpoints)
        if not self._job.version.kept:
            self._keeper.begin(shelf.document(ref))
        return ref

    def give_up(self) -> None:
        """There will be no pool for a job that is over: what lay only there is lost."""
        if not self._job.version.kept:
            self._job.fall_back()

    def close(self) -> None:
        """Wait until nothing reads the pool's memory any more."""
        self._keeper.settle()

    def make(self, shelf: Shelf, held: Sequence[Held]) -> tuple[RoundRecord, SlotRef]:
        """Make a version of the held partials and put it in force; on an error nothing happened.

        Raises
        ------
        Diverged
            if it is not finite.
        TemporaryError, OSError
            if that may pass: a store that is away, a full disk, a lease that was taken back.
        """
        job, optimizer = self._job, self._optimizer
        if optimizer is None:
            raise RuntimeError("make() before open()")
        self._keeper.finish()
        behind = self._behind and not job.last_round
        number = job.version.version + 1
        serial = secrets.randbits(62) | 1 << 61 if behind else number
        ref = shelf.reserve()
        draft = self._checkpoints.draft(number)
        try:
            made = optimizer.make(
                shelf,
                draft,
                ref,
                held,
                delta=job.spec.rules.update_type == "delta",
                write=not behind,
            )
            if behind:
                shelf.seal(ref, number, serial)
                crash.point("sealed-behind")
            following = job.record_commit(
                Made(
                    cover=tuple(sorted(s for h in held for s in h.cover)),
                    weight=sum(h.entry.weight for h in held),
                    summed=_unix(max(h.entry.sealed_ns for h in held)),
                    model_file=made.model_file,
                    vector_files=made.vector_files,
                    kept=not behind,
                    serial=serial,
                )
            )
        except BaseException:
            draft.discard()
            with contextlib.suppress(Fenced, StaleObject):
                shelf.drop(ref)
            raise
        draft.close()
        crash.point("committed")
        optimizer.state = made.state
        return following, ref

    def publish(self, shelf: Shelf, ref: SlotRef, inputs: Sequence[SlotRef]) -> None:
        """Make the version in force the one that readers get, and free what went into it."""
        version = self._job.version
        if version.kept:
            shelf.seal(ref, version.version, version.serial, inputs)
        else:
            shelf.release(inputs)
        shelf.show(ref)
        crash.point("sealed-model")

    def keep(self, shelf: Shelf, ref: SlotRef) -> None:
        """Have the version that readers have kept, if it is not yet, and older ones removed."""
        if self._job.version.kept:
            self._keeper.prune()
        else:
            self._keeper.begin(shelf.document(ref))

    def _load(self) -> Optimizer:
        job = self._job
        return Optimizer(
            job.spec.strategy, job.schema.float_elements, self._checkpoints, job.version
        )


def _unix(monotonic_ns: int) -> float:
    """Return the unix time of a CLOCK_MONOTONIC one."""
    return time.time() - (time.monotonic_ns() - monotonic_ns) / 1e9
