"""What the coordinator remembers, as plain data.

Why: the same records go through the pure machines, both stores and the
history. This module must not decide anything.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


class JobState(enum.StrEnum):
    """The life of a job; ``SUBMITTED`` waits for its initial model.

    Of a ``DELETED`` one only the name is left, until no node has its pool.
    """

    SUBMITTED = "submitted"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"
    DELETED = "deleted"


class Phase(enum.StrEnum):
    """The life of a round, and how a job ended."""

    PLANNING = "planning"
    OPEN = "open"
    CLOSING = "closing"
    COMMITTING = "committing"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether no round follows."""
        return self in (Phase.DONE, Phase.STOPPED, Phase.FAILED)


class ClaimState(enum.StrEnum):
    """``CLAIMED``: being uploaded. ``SEALED``: accepted. ``LOST``: accepted, then its data went."""

    CLAIMED = "claimed"
    SEALED = "sealed"
    LOST = "lost"


class Record:
    """Plain data that becomes JSON and comes back; subclasses are dataclasses."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**raw)


@dataclass(frozen=True)
class JobRecord(Record):
    """A submitted job. ``spec`` is the job file's content, ``auth_key`` hex.

    ``owner`` is whatever the submitter calls itself, "" if nothing: who submits
    under the same name and owner again gets the same job.
    """

    name: str
    spec: dict[str, Any]
    created: float
    auth_key: str
    domain_uid: int
    state: JobState = JobState.SUBMITTED
    detail: str = ""
    schema: dict[str, Any] | None = None
    geometry: dict[str, int] | None = None
    owner: str = ""

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**{**raw, "state": JobState(raw["state"])})


@dataclass(frozen=True)
class RoundRecord(Record):
    """The attempt a job is at.

    ``assignment`` is its number in the data plane, one per attempt.
    ``selected`` is None when every client may take part; ``goal`` is 0 until
    clients have been selected. ``lost`` are clients whose update of an earlier
    attempt was given up, ``silent`` those that did not answer it. ``serials``
    is the first serial that no process has set aside yet. Times are unix
    seconds.
    """

    round: int
    attempt: int
    assignment: int
    phase: Phase
    since: float
    serials: int
    selected: tuple[str, ...] | None = ()
    goal: int = 0
    opened: float | None = None
    deadline: float | None = None
    closed: float | None = None
    plan: dict[str, Any] | None = None
    lost: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        values = dict(raw)
        values["phase"] = Phase(raw["phase"])
        values["selected"] = None if raw["selected"] is None else tuple(raw["selected"])
        values["lost"], values["silent"] = tuple(raw["lost"]), tuple(raw["silent"])
        return cls(**values)


@dataclass(slots=True)
class Claim(Record):
    """One client's update in one attempt.

    ``node`` took the upload; ``at`` is the node its data, alone or in a
    partial, lies on now. ``digest`` is None when it is not known.
    """

    serial: int
    assignment: int
    client: str
    node: str
    at: str
    num_samples: int
    nbytes: int
    state: ClaimState = ClaimState.CLAIMED
    digest: str | None = None
    slot: int = 0
    generation: int = 0
    metrics: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data; written out because every upload waits for it."""
        return {
            "serial": self.serial,
            "assignment": self.assignment,
            "client": self.client,
            "node": self.node,
            "at": self.at,
            "num_samples": self.num_samples,
            "nbytes": self.nbytes,
            "state": self.state.value,
            "digest": self.digest,
            "slot": self.slot,
            "generation": self.generation,
            "metrics": self.metrics,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**{**raw, "state": ClaimState(raw["state"])})


@dataclass(slots=True)
class Transfer(Record):
    """A partial on its way from one node to another; ``sealed`` when it has arrived."""

    serial: int
    assignment: int
    source: str
    target: str
    cover: tuple[int, ...]
    weight: float
    sealed: bool = False
    slot: int = 0
    generation: int = 0

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**{**raw, "cover": tuple(raw["cover"])})


@dataclass(frozen=True)
class VersionRecord(Record):
    """A committed model: which updates are in it, and its files' names.

    One that is not ``kept`` has no model file yet: it lies in the pool alone, in the slot that
    was sealed as ``serial``.
    """

    version: int
    round: int
    assignment: int
    cover: tuple[int, ...]
    weight: float
    model_file: str
    vector_files: dict[str, str]
    created: float
    kept: bool = True
    serial: int = 0

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**{**raw, "cover": tuple(raw["cover"])})


@dataclass(frozen=True)
class RoundSummary(Record):
    """One line of a job's history.

    ``accepted`` counts updates acknowledged to clients and not lost since,
    ``aggregated`` those in the committed cover; ``attempts`` is 1 unless the
    round was tried again. ``metrics`` are the clients' own, averaged by sample
    count; ``accuracy`` and ``loss`` come from the last evaluation of the
    version. ``summed`` is when the last sum that went into the version was
    sealed. Times are unix seconds.
    """

    round: int
    version: int
    attempts: int
    accepted: int
    aggregated: int
    samples: float
    opened: float
    closed: float
    committed: float
    summed: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    loss: float | None = None
