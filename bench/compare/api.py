"""What a comparison needs of every side: a system that plays rounds within a group.

Why: the runner must treat all sides alike, so they share one small interface: the
same documents, the same arrivals, the same end of a round, and resources counted by the
kernel for every process a side has. It must not know any side, nor measure anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self


@dataclass(frozen=True, slots=True)
class Load:
    """One workload: so many clients send one ready-made update each, at given times.

    ``model`` is a key of ``bench.sizes.BYTES``; ``arrivals`` are seconds after a round's
    start, one a client, ascending. ``sizes`` are for rounds that differ: how many clients send
    in each, in turn (empty: all in every round).
    """

    name: str
    model: str
    clients: int
    arrivals: tuple[float, ...]
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.arrivals) != self.clients or list(self.arrivals) != sorted(self.arrivals):
            raise ValueError(f"{self.name}: one arrival a client, in order, please")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group's processes used since it was made: seconds, and counts of switches.

    Processes that have ended are included. ``switches`` is None where nobody counts them.
    """

    user: float
    system: float
    switches: int | None = None

    @property
    def cpu(self) -> float:
        """Return user and system seconds together."""
        return self.user + self.system

    def since(self, before: Usage) -> Usage:
        """Return what was used after ``before``."""
        counted = self.switches is not None and before.switches is not None
        return Usage(
            self.user - before.user,
            self.system - before.system,
            (self.switches or 0) - (before.switches or 0) if counted else None,
        )


@dataclass(frozen=True, slots=True)
class Round:
    """One round as a side played it.

    ``wall`` is seconds from the start (the first client is told to send) to the new global
    model being readable, ``last_byte`` seconds until the last client had handed its last byte
    to its socket; ``created`` how many aggregators were started for it, ``nodes`` how many
    nodes summed. ``marks`` are what a side wants to tell besides, by name.
    """

    wall: float
    last_byte: float
    updates: int
    created: int = 0
    nodes: int = 1
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reference:
    """How fast a side's path was here against what is published for it (MB/s).

    A ratio over a side that does not reach 0.8 of it is void.
    """

    path: str
    measured: float
    published: float

    @property
    def holds(self) -> bool:
        """Whether the side was good enough to be compared with."""
        return self.measured >= 0.8 * self.published


class Group(Protocol):
    """Processes whose use of the machine is counted together, wherever they were forked from."""

    def adopt(self) -> Any:
        """Return a context manager within which this thread's children are born into the group."""

    def usage(self) -> Usage:
        """Return what its processes have used so far."""

    def memory(self) -> int:
        """Return the bytes its processes hold now, shared memory once."""


class System(Protocol):
    """One side of the comparison. Enter it, play rounds, leave it; nothing stays behind."""

    name: str
    """A key for reports: lower case, no blanks."""
    title: str
    """What people read."""
    stand_ins: Sequence[str]
    """Each part that is not the real thing, and what it stands for."""
    versions: Mapping[str, str]
    """Versions of what it is made of."""

    def __enter__(self) -> Self:
        """Start all processes for the load it was made with, in the group it was given."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End them and wait for it."""

    def play(self, updates: int | None = None) -> Round:
        """Play one round with the first ``updates`` clients, all by default.

        Raises
        ------
        RuntimeError
            if the mean is wrong, or an update was refused; it says which.
        """

    def references(self) -> Sequence[Reference]:
        """Return how the side's path did against what is published; empty if nothing is."""


Maker = Any
"""``make(load, group, document) -> System``, what a side's module offers as ``make``."""
