"""Performs the machine's instructions on the pool and the channel.

Why: this is where leases, memory and the kernel are touched; what to touch was
decided by the machine. The slot table is the truth: an object somebody else has
is passed over, a lease taken back voids what was summed under it, and the seal
of an output is the one commit point.

A partial is a whole safetensors document: the canonical header of its schema,
integers, floats, right-justified like an update's, so that the next aggregator
reads updates and partials alike. The cover lies at the start of the meta area.

It must not decide anything about order, goals or roles.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from functions.aggregator.blas import Kernel
from functions.aggregator.stats import Stats
from functions.aggregator.steps import (
    Add,
    Event,
    Fenced,
    Forget,
    Instruction,
    NoRoom,
    Opened,
    OpenOutput,
    Refuse,
    RetryAfter,
    SealAndSend,
    Sealed,
    Take,
    Taken,
    Untake,
)
from functions.aggregator.summing import Accumulator, Input, Reader, View, WeightedSum
from lifl import crash
from lifl.dataplane.api import Channel
from lifl.errors import (
    AlreadyTaken,
    ConfigError,
    NotDelivered,
    PoolBusy,
    PoolFull,
    StaleObject,
    UpdateError,
)
from lifl.errors import Fenced as LeaseLost
from lifl.store import Pool, Seal, SlotEntry, SlotKind, SlotRef, SlotState, Work
from lifl.update import Schema
from lifl.wire import Descriptor, Opcode

LAYOUT_SUM, LAYOUT_MEAN = 0, 2
REMEMBERED_REFUSALS = 64

log = logging.getLogger("lifl.aggregator")
T = TypeVar("T")


class _Output(NamedTuple):
    ref: SlotRef
    sum: Accumulator
    doc_start: int
    doc_bytes: int


class Performer:
    """Carries out one instruction at a time and says what came of it.

    ``team`` is the kernel for what is in a hurry, ``kernel`` for the rest; on ``lane`` of
    the pool it leaves what it has done, for the node's load.
    """

    def __init__(
        self,
        pool: Pool,
        channel: Channel,
        endpoint: int,
        kernel: Kernel,
        stats: Stats,
        *,
        team: Kernel | None = None,
        lane: int | None = None,
    ) -> None:
        self.retry_at: float | None = None
        """CLOCK_MONOTONIC seconds of the next Retry event, if one was asked for."""
        self._pool = pool
        self._channel = channel
        self._endpoint = endpoint
        self._kernel = kernel
        self._team = team
        self._stats = stats
        self._reader = Reader()
        self._outputs: dict[int, _Output] = {}
        self._refused: dict[SlotRef, None] = {}
        self._lane = lane
        self._begun = Work(stats.updates, stats.waited_ns, stats.busy_ns)
        self._leave_work()

    def perform(self, step: Instruction) -> Event | None:  # noqa: PLR0911  one return a step
        """Carry out one instruction; returns what the machine should hear of it."""
        match step:
            case Take(ref):
                return self._take(ref)
            case OpenOutput():
                return self._open(step)
            case Add():
                return self._add(step)
            case SealAndSend():
                return self._seal_and_send(step)
            case Untake(ref):
                self._untake(ref)
                return None
            case Refuse(ref, reason):
                self._refuse(ref, reason)
                return None
            case Forget(assignment):
                self._outputs.pop(assignment, None)
                self._stats.fenced += 1
                log.warning("assignment %d: leases were taken back; its sum is void", assignment)
                return None
            case RetryAfter(seconds):
                self.retry_at = time.monotonic() + seconds
                return None

    def _take(self, ref: SlotRef) -> Taken | None:
        try:
            entry = patiently(lambda: self._pool.take(ref, self._endpoint))
        except (AlreadyTaken, StaleObject) as e:
            log.debug("passed over %s: %s", ref, e)
            return None
        crash.point("after-take")
        try:
            schema = self._view(ref, entry).schema
            self._check_fit(schema)
        except (UpdateError, ConfigError) as e:
            self._refuse(ref, str(e))
            return None
        cover = tuple(self._pool.cover(ref.slot).tolist())
        return Taken(ref, entry, cover, schema, self._pool.scarce)

    def _view(self, ref: SlotRef, entry: SlotEntry) -> View:
        whole = self._pool.slot_bytes(ref.slot)
        return self._reader.view(whole[entry.doc_start : entry.doc_start + entry.doc_bytes])

    def _check_fit(self, schema: Schema) -> None:
        g = self._pool.geometry
        if schema.float_start > g.meta_bytes or schema.float_bytes > g.float_bytes:
            raise ConfigError(f"a sum of {schema} does not fit the pool's slots: {g}")

    def _open(self, step: OpenOutput) -> Opened | NoRoom:
        pool, schema = self._pool, step.schema
        head = schema.canonical_header()
        doc_start = pool.geometry.meta_bytes - schema.float_start
        try:
            ref = patiently(
                lambda: pool.reserve(
                    SlotKind.PARTIAL, self._endpoint, step.assignment, ingest=False
                )
            )
        except PoolFull:
            self._stats.no_room += 1
            log.debug("no slot for the output of assignment %d", step.assignment)
            return NoRoom(step.assignment)
        meta = pool.meta(ref.slot)
        meta[doc_start : doc_start + len(head)] = head
        total = WeightedSum(
            schema,
            pool.floats(ref.slot)[: schema.float_elements],
            meta[doc_start + len(head) :],
            self._kernel,
            step.span,
            team=self._team,
        )
        self._outputs[step.assignment] = _Output(ref, total, doc_start, schema.document_bytes)
        crash.point("after-open")
        return Opened(step.assignment, ref)

    def _add(self, step: Add) -> Fenced | None:
        output = self._outputs[step.assignment]
        if not self._ours(output.ref):
            return Fenced(step.assignment)
        inputs = [Input(self._view(ref, entry), _weight(entry)) for ref, entry in step.inputs]
        started = time.monotonic_ns()
        output.sum.add(inputs, step.divide_by, hurry=step.hurry)
        if self._stats.count([entry for _, entry in step.inputs], started, time.monotonic_ns()):
            self._leave_work()
        crash.point("after-add")
        return None

    def _leave_work(self) -> None:
        if self._lane is not None:
            now, begun = self._stats, self._begun
            done, waited = now.updates - begun.added, now.waited_ns - begun.waited_ns
            work = Work(done, waited, now.busy_ns - begun.busy_ns)
            self._pool.write_work(self._lane, work)

    def _seal_and_send(self, step: SealAndSend) -> Sealed | Fenced:
        output = self._outputs[step.assignment]
        if not self._ours(output.ref):
            return Fenced(step.assignment)
        if 8 * len(step.cover) > output.doc_start:
            raise ConfigError(
                f"the pool's meta area ({self._pool.geometry.meta_bytes} bytes) has no room for "
                f"a cover of {len(step.cover)} updates beside the document's header"
            )
        crash.point("before-seal")
        output.sum.seal(step.divide_by)
        seal = Seal(
            serial=_new_serial(),
            weight=step.weight,
            doc_start=output.doc_start,
            doc_bytes=output.doc_bytes,
            layout=LAYOUT_MEAN if step.mean else LAYOUT_SUM,
            cover=step.cover,
            inputs=step.inputs,
        )
        try:
            patiently(lambda: self._pool.seal(output.ref, self._endpoint, seal))
        except LeaseLost:
            return Fenced(step.assignment)
        del self._outputs[step.assignment]
        self._stats.partials += 1
        crash.point("after-seal")
        if not step.keep:
            onward = [ref for ref in step.onward if self._untake(ref)]
            for ref in (output.ref, *onward):
                self._send(ref, step.assignment)
        return Sealed(step.assignment)

    def _send(self, ref: SlotRef, assignment: int) -> None:
        pages = self._pool.entry(ref.slot).pages
        crash.point("before-send")
        try:
            self._channel.send(
                Descriptor(Opcode.OBJECT, ref.slot, ref.generation, assignment, pages)
            )
        except NotDelivered as e:  # the object is sealed: the agent's sweeper sends it again
            self._stats.not_delivered += 1
            log.debug("partial %s of assignment %d not delivered: %s", ref, assignment, e)

    def _untake(self, ref: SlotRef) -> bool:
        """Put an object back; returns False if its lease was taken back already."""
        try:
            patiently(lambda: self._pool.untake(ref, self._endpoint))
        except LeaseLost:
            log.debug("the lease on %s was taken back already", ref)
            return False
        return True

    def _refuse(self, ref: SlotRef, reason: str) -> None:
        self._stats.refused += 1
        if ref not in self._refused:  # it may be sent again many times
            log.error("cannot use object %s: %s", ref, reason)
            self._refused[ref] = None
            if len(self._refused) > REMEMBERED_REFUSALS:
                del self._refused[next(iter(self._refused))]
        self._untake(ref)

    def _ours(self, ref: SlotRef) -> bool:
        """Whether an output's lease still stands.

        A process that the agent fenced must not write into what may be another's slot.
        """
        entry = self._pool.entry(ref.slot)
        return (
            entry.generation == ref.generation
            and entry.state is SlotState.WRITING
            and entry.owner == self._endpoint
        )


def patiently(operation: Callable[[], T]) -> T:
    """Do a table operation; a busy table only means: wait on."""
    while True:
        try:
            return operation()
        except PoolBusy as e:
            log.warning("%s", e)


def _weight(entry: SlotEntry) -> float | None:
    """Return what an update or a mean stands for; None if the object is a sum."""
    is_sum = entry.kind is SlotKind.PARTIAL and entry.layout != LAYOUT_MEAN
    return None if is_sum else entry.weight


def _new_serial() -> int:
    """Return a serial for a partial: unique in the job on all nodes.

    It is far from the updates' serials, which count from 1, and below 2**63 for
    databases whose integers are signed.
    """
    return 1 << 62 | int.from_bytes(os.urandom(8), "little") >> 2
