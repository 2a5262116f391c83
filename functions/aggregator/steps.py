"""What the state machine is told and what it asks for: events and instructions.

Why: they are the whole interface between the pure machine and the runtime that
touches sockets and memory. Each says what it answers with, if anything.

It must hold no logic.
"""

from __future__ import annotations

from typing import NamedTuple

from functions.aggregator.summing import Span
from lifl.store import RoleRow, SlotEntry, SlotRef
from lifl.update import Schema
from lifl.wire import Descriptor

# -- events -----------------------------------------------------------------------


class Received(NamedTuple):
    """A descriptor came; ``more`` are being read, and :class:`Drained` follows."""

    descriptor: Descriptor
    more: bool = False


class Drained(NamedTuple):
    """No more descriptors wait."""


class Taken(NamedTuple):
    """An object is ours; ``cover`` are the serials of the updates in it.

    ``scarce`` says that the pool has hardly a slot left for updates.
    """

    ref: SlotRef
    entry: SlotEntry
    cover: tuple[int, ...]
    schema: Schema
    scarce: bool = False


class Opened(NamedTuple):
    """The output slot of an assignment is there."""

    assignment: int
    output: SlotRef


class NoRoom(NamedTuple):
    """The pool had no slot for the output."""

    assignment: int


class Sealed(NamedTuple):
    """The output of an assignment is committed; its inputs are gone."""

    assignment: int


class Fenced(NamedTuple):
    """The agent took this assignment's leases back: what is held of it is void."""

    assignment: int


class Flush(NamedTuple):
    """Seal and send what is held of an assignment."""

    assignment: int


class RoleChanged(NamedTuple):
    """The agent wrote another role row."""

    role: RoleRow


class Retry(NamedTuple):
    """The time asked for by :class:`RetryAfter` has passed."""


Event = Received | Drained | Taken | Opened | NoRoom | Sealed | Fenced | Flush | RoleChanged | Retry


# -- instructions -------------------------------------------------------------------


class Take(NamedTuple):
    """Become the holder of an object; answers Taken, or nothing if somebody else has it."""

    ref: SlotRef


class Refuse(NamedTuple):
    """Put an object back that cannot be used, and say so loudly."""

    ref: SlotRef
    reason: str


class Untake(NamedTuple):
    """Put an object back, unused."""

    ref: SlotRef


class OpenOutput(NamedTuple):
    """Reserve a slot for an output; answers Opened or NoRoom."""

    assignment: int
    schema: Schema
    span: Span


class Add(NamedTuple):
    """Add inputs; ``divide_by`` other than 1 divides the result in the same pass.

    With ``hurry`` the output is sealed right afterwards, and somebody waits for it.
    """

    assignment: int
    inputs: tuple[tuple[SlotRef, SlotEntry], ...]
    divide_by: float
    hurry: bool = False


class SealAndSend(NamedTuple):
    """Finish the output, commit it and send its descriptor; answers Sealed or Fenced.

    ``weight`` is Σ n. ``divide_by`` other than 1 asks for a pass of its own over
    the result. ``mean`` says that the output is then a mean. With ``keep`` nothing
    is sent: the machine takes the output itself. ``onward`` are inputs that the output
    does not cover: they are put back and sent the same way, right after it.
    """

    assignment: int
    output: SlotRef
    weight: float
    mean: bool
    divide_by: float
    cover: tuple[int, ...]
    inputs: tuple[SlotRef, ...]
    keep: bool = False
    onward: tuple[SlotRef, ...] = ()


class Forget(NamedTuple):
    """Let the accumulator of an assignment go without an output."""

    assignment: int


class RetryAfter(NamedTuple):
    """Give a :class:`Retry` event after some seconds."""

    seconds: float


Instruction = Take | Refuse | Untake | OpenOutput | Add | SealAndSend | Forget | RetryAfter
