"""State in Redis: for clusters, where the coordinator has no disk of its own.

Why: every write is one MULTI/EXEC, so a successor sees all of it or nothing.
How durable a commit is, Redis decides: run it with ``appendonly yes`` and
``appendfsync always`` for versions that survive its power cut, or ``everysec``
to lose the last second at worst. With an append-only file and Redis 7.2 or
newer a commit also waits (WAITAOF) until that file is on the disk.

This is the one importer of redis. It must not decide anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from functions.coordinator.records import (
    Claim,
    JobRecord,
    RoundRecord,
    RoundSummary,
    Transfer,
    VersionRecord,
)
from functions.coordinator.state import Change, Commit, Snapshot
from lifl.errors import Unavailable

PREFIX = "lifl"
TIMEOUT_SECONDS = 5.0
AOF_WAIT_MS = 2000


class RedisStore:
    """See :class:`functions.coordinator.state.StateStore`.

    Keys: ``lifl:jobs`` (hash name → job), and per job ``lifl:job:NAME:`` with
    ``round`` (string), ``claims``, ``transfers``, ``versions``, ``history``
    (hashes number → record) and ``clients`` (sorted by when they were seen first).
    """

    def __init__(self, url: str, password: str = "") -> None:
        self._db: Any = redis.Redis.from_url(
            url,
            password=password or None,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            decode_responses=True,
        )
        with _unavailable():
            info = self._db.info("all")
        version = tuple(int(n) for n in str(info["redis_version"]).split(".")[:2])
        self._wait_aof = bool(info.get("aof_enabled")) and version >= (7, 2)

    def create_job(self, job: JobRecord) -> bool:
        """Add a job; False if the name is taken."""
        with _unavailable():
            return bool(self._db.hsetnx(f"{PREFIX}:jobs", job.name, _dump(job.to_json())))

    def put_job(self, job: JobRecord) -> None:
        """Replace a job's record, durably."""
        with _unavailable():
            self._db.hset(f"{PREFIX}:jobs", job.name, _dump(job.to_json()))
            self._wait()

    def remove_job(self, name: str, marker: JobRecord | None = None) -> None:
        """Forget all of a job in one transaction, durably; ``marker`` takes its record's place."""
        parts = ("round", "claims", "transfers", "clients", "versions", "history")
        with _unavailable():
            pipe = self._db.pipeline(transaction=True)
            pipe.delete(*(_key(name, part) for part in parts))
            if marker is None:
                pipe.hdel(f"{PREFIX}:jobs", name)
            else:
                pipe.hset(f"{PREFIX}:jobs", name, _dump(marker.to_json()))
            pipe.execute()
            self._wait()

    def jobs(self) -> list[JobRecord]:
        """Return all jobs, oldest first."""
        with _unavailable():
            raw = self._db.hvals(f"{PREFIX}:jobs")
        found = [JobRecord.from_json(json.loads(doc)) for doc in raw]
        return sorted(found, key=lambda j: (j.created, j.name))

    def write(self, job: str, change: Change) -> None:
        """Write a change in one transaction; it survives the process."""
        with _unavailable():
            pipe = self._db.pipeline(transaction=True)
            self._put_change(pipe, job, change)
            pipe.execute()

    def commit(self, commit: Commit) -> None:
        """Write a version in one transaction; as durable on return as Redis makes it."""
        name, number = commit.job.name, commit.version.version
        with _unavailable():
            pipe = self._db.pipeline(transaction=True)
            pipe.hset(f"{PREFIX}:jobs", name, _dump(commit.job.to_json()))
            pipe.hset(_key(name, "versions"), str(number), _dump(commit.version.to_json()))
            if commit.summary is not None:
                pipe.hset(_key(name, "history"), str(number), _dump(commit.summary.to_json()))
            self._put_change(pipe, name, commit.change)
            pipe.execute()
            self._wait()

    def load(self, job: str) -> Snapshot:
        """Return what a successor needs; clients in the order they became known."""
        with _unavailable():
            last = max(self._db.hkeys(_key(job, "versions")), key=int, default=None)
            version = None if last is None else self._db.hget(_key(job, "versions"), last)
            round_doc = self._db.get(_key(job, "round"))
            claims = self._db.hvals(_key(job, "claims"))
            transfers = self._db.hvals(_key(job, "transfers"))
            clients = self._db.zrange(_key(job, "clients"), 0, -1)
        return Snapshot(
            version=None if version is None else VersionRecord.from_json(json.loads(version)),
            round=None if round_doc is None else RoundRecord.from_json(json.loads(round_doc)),
            claims=sorted((Claim.from_json(json.loads(c)) for c in claims), key=lambda c: c.serial),
            transfers=sorted(
                (Transfer.from_json(json.loads(t)) for t in transfers), key=lambda t: t.serial
            ),
            clients=clients,
        )

    def add_evaluation(
        self, job: str, version: int, accuracy: float | None, loss: float | None
    ) -> bool:
        """Set a version's accuracy and loss in the history; False if there is none."""
        key = _key(job, "history")
        with _unavailable():
            raw = self._db.hget(key, str(version))
            if raw is None:
                return False
            doc = json.loads(raw) | {"accuracy": accuracy, "loss": loss}
            self._db.hset(key, str(version), _dump(doc))
            return True

    def history(self, job: str, after: int = -1) -> list[RoundSummary]:
        """Return a job's committed rounds, oldest first: those of versions above ``after``."""
        key = _key(job, "history")
        with _unavailable():
            wanted = [version for version in self._db.hkeys(key) if int(version) > after]
            raw = self._db.hmget(key, wanted) if wanted else []
        found = [RoundSummary.from_json(json.loads(doc)) for doc in raw if doc is not None]
        return sorted(found, key=lambda s: s.version)

    def close(self) -> None:
        """Close the connections."""
        self._db.close()

    def _put_change(self, pipe: Any, job: str, change: Change) -> None:
        claims, transfers = _key(job, "claims"), _key(job, "transfers")
        for claim in change.claims:
            pipe.hset(claims, str(claim.serial), _dump(claim.to_json()))
        if change.dropped:
            pipe.hdel(claims, *(str(s) for s in change.dropped))
        for t in change.transfers:
            pipe.hset(transfers, f"{t.assignment}/{t.serial}", _dump(t.to_json()))
        if change.clients:
            first = self._db.zcard(_key(job, "clients"))
            seen = {client: first + i for i, client in enumerate(change.clients)}
            pipe.zadd(_key(job, "clients"), seen, nx=True)
        if change.round is not None:
            pipe.set(_key(job, "round"), _dump(change.round.to_json()))
        if change.forget_before:
            self._forget(pipe, job, change)

    def _forget(self, pipe: Any, job: str, change: Change) -> None:
        """Delete what belongs to assignments that are over, looked up before the transaction.

        The coordinator is the only writer, so nothing comes in between.
        """
        for kind in ("claims", "transfers"):
            docs = self._db.hgetall(_key(job, kind))
            old = [
                field
                for field, doc in docs.items()
                if json.loads(doc)["assignment"] < change.forget_before
            ]
            if old:
                pipe.hdel(_key(job, kind), *old)

    def _wait(self) -> None:
        if self._wait_aof:
            self._db.execute_command("WAITAOF", 1, 0, AOF_WAIT_MS)


def _key(job: str, part: str) -> str:
    return f"{PREFIX}:job:{job}:{part}"


def _dump(doc: dict[str, Any]) -> str:
    return json.dumps(doc, separators=(",", ":"))


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as e:
        raise Unavailable(f"Redis failed: {e}") from e
