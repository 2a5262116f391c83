"""The aggregator's state machine: Recv → Agg → Send, as a pure class.

Why: what an aggregator does must be testable without sockets or memory, and be
one program for leaf, middle and top. Events go in, instructions come out; the
runtime performs them in order and feeds back what happened.

    Received ──► Take ──► Taken ──► OpenOutput ──► Opened ──► Add ... SealAndSend ──► Sealed
                  │                    └─► NoRoom: Untake, try again later
                  └─► nothing: somebody else has it, or it is gone

Rules held here:

- Eager adds on arrival, lazy when the goal is reached; both keep Σ n·w and Σ n
  and divide once, at the top, so both give the same mean.
- The goal, a number of client updates, is a hint. An output is sealed when it covers
  so many or on a flush; what arrives later starts another partial of the assignment.
- What waits together is added in one pass. The input that completes a sum for another
  aggregator of this node is not added here but sent on beside it, to be added there with it.
- Added inputs stay leased until an output that covers them is sealed. An aggregator that
  holds many, or several when the pool runs out of slots, *compacts*: it seals what it
  has, which frees them, and takes that partial as the first input of the next sum.
- Several assignments may be open at once. A role change touches none of them.
- Inputs of one output have disjoint covers; one that overlaps is refused.

It must not do I/O, look at the clock or touch an object's data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from functions.aggregator.steps import (
    Add,
    Drained,
    Event,
    Fenced,
    Flush,
    Forget,
    Instruction,
    NoRoom,
    Opened,
    OpenOutput,
    Received,
    Refuse,
    Retry,
    RetryAfter,
    RoleChanged,
    SealAndSend,
    Sealed,
    Take,
    Taken,
    Untake,
)
from functions.aggregator.summing import Span
from lifl.store import RoleRow, SlotKind, SlotRef
from lifl.update import Schema
from lifl.wire import Descriptor, Opcode

LAZY = 1
COMPACT_INPUTS = 4
"""From so many inputs on compacting frees more slots than its pass over the sum is worth."""
MOST_INPUTS = 16
"""An eager one holds no more: so much memory, and so much to be added again after a death."""
REMEMBERED_ROLES = 16
RETRY_SECONDS = 0.05
_NO_ROLE = RoleRow(assignment=0, epoch=0, goal=0, timing=0, final=False)


@dataclass(slots=True)
class _Sum:
    """One open output."""

    assignment: int
    schema: Schema
    span: Span
    output: SlotRef | None = None
    waiting: list[Taken] = field(default_factory=list)
    added: list[SlotRef] = field(default_factory=list)
    cover: set[int] = field(default_factory=set)
    weight: float = 0.0
    flushing: bool = False
    compacting: bool = False
    divided: bool = False

    @property
    def inputs(self) -> int:
        return len(self.added) + len(self.waiting)


class Machine:
    """Everything one aggregator knows; see the module."""

    def __init__(self) -> None:
        self._roles: dict[int, RoleRow] = {}
        self._sums: dict[int, _Sum] = {}
        self._parked: list[SlotRef] = []
        self._draining = False

    @property
    def open(self) -> tuple[int, ...]:
        """The assignments of which something is held."""
        return tuple(self._sums)

    def knows(self, assignment: int) -> bool:
        """Whether a role in this assignment was seen."""
        return assignment in self._roles

    def on(self, event: Event) -> list[Instruction]:  # noqa: PLR0911  one return an event
        """Return what to do about ``event``, in order."""
        match event:
            case Received(descriptor, more):
                self._draining = more
                return self._received(descriptor)
            case Drained():
                self._draining = False
                return [step for total in self._sums.values() for step in self._advance(total)]
            case Taken():
                return self._taken(event)
            case Opened(assignment, output):
                total = self._sums[assignment]
                total.output = output
                return self._advance(total)
            case NoRoom(assignment):
                return self._no_room(assignment)
            case Sealed(assignment):
                total = self._sums.pop(assignment)
                return [Take(total.output)] if total.compacting and total.output else []
            case Fenced(assignment):
                return self._fenced(assignment)
            case Flush(assignment):
                return self._flush(assignment)
            case RoleChanged(role):
                return self._role_changed(role)
            case Retry():
                parked, self._parked = self._parked, []
                return [Take(ref) for ref in parked]

    def _received(self, descriptor: Descriptor) -> list[Instruction]:
        if descriptor.opcode is Opcode.OBJECT:
            return [Take(SlotRef(descriptor.slot, descriptor.generation))]
        if descriptor.opcode is Opcode.FLUSH:
            return self._flush(descriptor.assignment)
        return []  # WAKE: the runtime has read the role row

    def _taken(self, taken: Taken) -> list[Instruction]:
        assignment = taken.entry.assignment
        total = self._sums.get(assignment)
        if reason := self._unusable(taken, total):
            return [Refuse(taken.ref, reason)]
        if total is None:
            role = self._roles.get(assignment, _NO_ROLE)
            total = _Sum(assignment, taken.schema, Span(role.lo, role.hi))
            self._sums[assignment] = total
        total.waiting.append(taken)
        total.cover.update(taken.cover)
        total.weight += taken.entry.weight
        total.compacting = taken.scarce and total.inputs >= COMPACT_INPUTS
        return self._advance(total)

    @staticmethod
    def _unusable(taken: Taken, total: _Sum | None) -> str:
        if taken.entry.kind not in {SlotKind.UPDATE, SlotKind.PARTIAL}:
            return f"it is a {taken.entry.kind.name}, not an update or a partial"
        if total is None:
            return ""
        if taken.schema != total.schema:
            return f"{taken.schema} does not fit assignment {total.assignment}, {total.schema}"
        if not total.cover.isdisjoint(taken.cover):
            both = sorted(total.cover.intersection(taken.cover))
            return f"updates {both[:5]} are in the sum of assignment {total.assignment} already"
        return ""

    def _advance(self, total: _Sum) -> list[Instruction]:
        if self._draining and not total.compacting and total.inputs < MOST_INPUTS:
            return []  # what comes with it is added in the same pass
        role = self._roles.get(total.assignment, _NO_ROLE)
        done = total.flushing or 0 < role.goal <= len(total.cover)
        eager = role.timing != LAZY
        many = eager and total.inputs >= MOST_INPUTS
        total.compacting = (total.compacting or many) and not done
        if not (done or total.compacting) and not (eager and total.waiting):
            return []
        if total.output is None:
            return [OpenOutput(total.assignment, total.schema, total.span)]
        if done and self._passes_on(total, role):
            return [self._seal(total, total.output, mean=False, last=total.waiting[0])]
        mean = done and role.final and total.weight > 0
        steps: list[Instruction] = []
        if total.waiting:
            total.divided = mean
            divide_by = total.weight if mean else 1.0
            inputs = tuple((item.ref, item.entry) for item in total.waiting)
            steps.append(Add(total.assignment, inputs, divide_by, hurry=done))
            total.added += [item.ref for item in total.waiting]
            total.waiting.clear()
        if done or total.compacting:
            steps.append(self._seal(total, total.output, mean))
        return steps

    @staticmethod
    def _passes_on(total: _Sum, role: RoleRow) -> bool:
        """Whether the input that completes a sum is left to the next aggregator to add.

        It adds this one's output anyway, and both in one pass; adding it here would be another
        one over the output. Between nodes it would be another object to carry, and where slots
        are scarce it would keep one for longer.
        """
        elsewhere = role.final or role.parent_remote or role.timing == LAZY
        alone = len(total.waiting) == 1 and not total.waiting[0].scarce
        return alone and bool(total.added) and not (elsewhere or total.flushing)

    @staticmethod
    def _seal(total: _Sum, output: SlotRef, mean: bool, last: Taken | None = None) -> SealAndSend:
        """Seal what was added; ``last``, the input that was not, goes on beside it."""
        weight, cover = total.weight, total.cover
        if last is not None:
            weight, cover = weight - last.entry.weight, cover.difference(last.cover)
        return SealAndSend(
            assignment=total.assignment,
            output=output,
            weight=weight,
            mean=mean,
            divide_by=weight if mean and not total.divided else 1.0,
            cover=tuple(sorted(cover)),
            inputs=tuple(total.added),
            keep=total.compacting,
            onward=() if last is None else (last.ref,),
        )

    def _no_room(self, assignment: int) -> list[Instruction]:
        total = self._sums.pop(assignment)
        refs = [item.ref for item in total.waiting]
        self._parked.extend(refs)
        return [*(Untake(ref) for ref in refs), RetryAfter(RETRY_SECONDS)]

    def _fenced(self, assignment: int) -> list[Instruction]:
        total = self._sums.pop(assignment)
        refs = [*total.added, *(item.ref for item in total.waiting)]
        return [Forget(assignment), *(Untake(ref) for ref in refs)]

    def _flush(self, assignment: int) -> list[Instruction]:
        total = self._sums.get(assignment)
        if total is None:
            return []
        total.flushing = True
        return self._advance(total)

    def _role_changed(self, role: RoleRow) -> list[Instruction]:
        if role.assignment == 0:
            return []
        self._roles.pop(role.assignment, None)  # newest last
        self._roles[role.assignment] = role
        self._trim(a for a in tuple(self._roles) if a not in self._sums)
        total = self._sums.get(role.assignment)
        return self._advance(total) if total is not None else []

    def _trim(self, idle: Iterable[int]) -> None:
        for assignment in idle:
            if len(self._roles) <= REMEMBERED_ROLES:
                return
            del self._roles[assignment]
