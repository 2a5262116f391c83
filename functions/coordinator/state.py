"""What has to be remembered, and the interface of the stores that keep it.

Why: rounds are decided in memory and written through, so that a successor goes
on where a killed coordinator stopped. Two strengths of writing are enough:

* :meth:`StateStore.write` (claims, transfers, the round) must survive the death
  of the process. It need not survive a power cut: the objects that claims speak
  of lie in shared memory and do not survive one either, and a claim without an
  object is opened again by the gateway's inventory.
* :meth:`StateStore.commit` (a model version) must be on the disk when it
  returns: clients are told of it, and its number may name no other model ever. Its
  checkpoint is on the disk too, or :meth:`StateStore.keep` says later that it is.

It must not know a foreign library, nor decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from functions.coordinator.authority import Superseded, ignore
from functions.coordinator.records import (
    Claim,
    JobRecord,
    RoundRecord,
    RoundSummary,
    Transfer,
    VersionRecord,
)
from lifl.errors import ConfigError


@dataclass(slots=True)
class Change:
    """What one event changed.

    ``claims`` and ``transfers`` are inserted or replaced, ``dropped`` are
    serials of claims that go, ``clients`` became known, ``round`` replaces the
    record; claims and transfers of assignments below ``forget_before`` go.
    """

    claims: list[Claim] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    round: RoundRecord | None = None
    forget_before: int = 0

    def update(self, later: Change) -> None:
        """Add a later change."""
        self.claims += [c for c in later.claims if c not in self.claims]
        self.dropped += later.dropped
        self.transfers += later.transfers
        self.clients += later.clients
        self.round = later.round or self.round
        self.forget_before = max(self.forget_before, later.forget_before)

    def __bool__(self) -> bool:
        return bool(
            self.claims
            or self.dropped
            or self.transfers
            or self.clients
            or self.round
            or self.forget_before
        )


@dataclass(frozen=True)
class Commit:
    """A new model version with everything that becomes true with it."""

    job: JobRecord
    version: VersionRecord
    change: Change
    summary: RoundSummary | None = None


@dataclass(frozen=True)
class Snapshot:
    """What a successor needs of one job: its last version, its round and its claims.

    ``before`` is the version before, if the last one is not kept yet.
    """

    version: VersionRecord | None
    round: RoundRecord | None
    claims: Sequence[Claim]
    transfers: Sequence[Transfer]
    clients: Sequence[str]
    before: VersionRecord | None = None


class StateStore(Protocol):
    """A place that outlives the process. Safe for several threads.

    To open it is to take it over: read after that, it is as the predecessor left it
    for good. Every method raises ``Unavailable`` when the store cannot be reached or
    cannot write; then nothing of the call has happened. All that write, and
    :meth:`confirm`, raise ``Superseded``, one of those, once somebody else has opened it.
    """

    def confirm(self) -> None:
        """Do nothing if the store is still ours, but show that we are there."""

    def create_job(self, job: JobRecord) -> bool:
        """Add a job; False, and nothing happens, if the name is taken."""

    def put_job(self, job: JobRecord) -> None:
        """Replace a job's record, durably."""

    def remove_job(self, name: str, marker: JobRecord | None = None) -> None:
        """Forget all of a job in one transaction, durably; ``marker`` takes its record's place."""

    def jobs(self) -> list[JobRecord]:
        """Return all jobs, oldest first."""

    def write(self, job: str, change: Change) -> None:
        """Write a change in one transaction; it survives the process."""

    def commit(self, commit: Commit) -> None:
        """Write a version in one transaction; it is durable on return."""

    def keep(self, job: str, version: VersionRecord) -> None:
        """Replace the record of a version, whose files are on the disk now, durably."""

    def load(self, job: str) -> Snapshot:
        """Return what a successor needs; clients in the order they became known."""

    def add_evaluation(
        self, job: str, version: int, accuracy: float | None, loss: float | None
    ) -> bool:
        """Set a version's accuracy and loss in the history; False if there is no such version."""

    def history(self, job: str, after: int = -1) -> list[RoundSummary]:
        """Return a job's committed rounds, oldest first: those of versions above ``after``."""

    def close(self) -> None:
        """Give connections back."""


def open_store(
    url: str, password: str = "", superseded: Callable[[Superseded], None] = ignore
) -> StateStore:
    """Open and take over the store that ``url`` names: ``sqlite:///PATH`` or ``redis://...``.

    ``password`` is Redis's, unless the URL has one. ``superseded`` is called before
    ``Superseded`` is raised.

    Raises
    ------
    ConfigError
        if the scheme is unknown.
    Unavailable
        if the store does not answer, or who has superseded this host keeps it.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/"):
        from functions.coordinator.state_sqlite import SqliteStore

        return SqliteStore(rest, superseded)
    if scheme in ("redis", "rediss", "unix"):
        from functions.coordinator.state_redis import RedisStore

        return RedisStore(url, password, superseded)
    raise ConfigError(f"LIFL_STATE_URL is {url!r}; use sqlite:///PATH or redis://HOST:PORT/DB")
