"""State in one SQLite file: the default of the local platform.

Why two connections: in WAL mode ``synchronous=NORMAL`` makes a claim cost tens
of microseconds and survives the process's death; ``FULL`` syncs the log, for
what must survive a power cut (see :mod:`functions.coordinator.state`). Both
write the same log, so a durable commit also carries all claims before it.

Whose the file is says one row of it, which every transaction reads first.

Records are JSON beside the columns they are looked up by. It must not decide
anything.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from functions.coordinator.authority import Superseded, ignore
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

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    name TEXT PRIMARY KEY, created REAL NOT NULL, doc TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS authority (
    id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, token TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rounds (
    job TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    job TEXT, serial INTEGER, assignment INTEGER NOT NULL, doc TEXT NOT NULL,
    PRIMARY KEY (job, serial)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transfers (
    job TEXT, assignment INTEGER, serial INTEGER, doc TEXT NOT NULL,
    PRIMARY KEY (job, assignment, serial)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clients (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, client TEXT NOT NULL, UNIQUE (job, client));
CREATE TABLE IF NOT EXISTS versions (
    job TEXT, version INTEGER, doc TEXT NOT NULL, PRIMARY KEY (job, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    job TEXT, version INTEGER, doc TEXT NOT NULL, PRIMARY KEY (job, version)) WITHOUT ROWID;
"""
BUSY_SECONDS = 30.0


class SqliteStore:
    """See :class:`functions.coordinator.state.StateStore`."""

    def __init__(self, path: str | Path, superseded: Callable[[Superseded], None] = ignore) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self._path, self._superseded = path, superseded
        self._token = secrets.token_hex(8)
        self._lock = threading.Lock()
        with _unavailable():
            self._quick = self._connect(path, "NORMAL")
            self._durable = self._connect(path, "FULL")
            self._quick.executescript(SCHEMA)
            self._quick.execute(
                "INSERT INTO authority VALUES (1, 1, ?)"
                " ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1, token = excluded.token",
                (self._token,),
            )

    @staticmethod
    def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
        db = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={synchronous}")
        return db

    def confirm(self) -> None:
        """Do nothing if the file is still ours; no sign is needed, who starts takes it over."""
        with self._lock, _unavailable():
            self._check(self._quick)

    def create_job(self, job: JobRecord) -> bool:
        """Add a job; False if the name is taken."""
        with self._transaction(self._durable) as db:
            found = db.execute(
                "INSERT OR IGNORE INTO jobs VALUES (?, ?, ?)",
                (job.name, job.created, _dump(job.to_json())),
            )
            return found.rowcount == 1

    def put_job(self, job: JobRecord) -> None:
        """Replace a job's record, durably."""
        with self._transaction(self._durable) as db:
            _put_job(db, job)

    def remove_job(self, name: str, marker: JobRecord | None = None) -> None:
        """Forget all of a job in one transaction, durably; ``marker`` takes its record's place."""
        with self._transaction(self._durable) as db:
            for table in ("rounds", "claims", "transfers", "clients", "versions", "history"):
                db.execute(f"DELETE FROM {table} WHERE job=?", (name,))
            if marker is None:
                db.execute("DELETE FROM jobs WHERE name=?", (name,))
            else:
                _put_job(db, marker)

    def jobs(self) -> list[JobRecord]:
        """Return all jobs, oldest first."""
        return self._read(JobRecord.from_json, "SELECT doc FROM jobs ORDER BY created, name")

    def write(self, job: str, change: Change) -> None:
        """Write a change in one transaction; it survives the process."""
        with self._transaction(self._quick) as db:
            _put_change(db, job, change)

    def commit(self, commit: Commit) -> None:
        """Write a version in one transaction; it is durable on return."""
        name, version = commit.job.name, commit.version
        with self._transaction(self._durable) as db:
            _put_job(db, commit.job)
            _put_version(db, name, version)
            if commit.summary is not None:
                db.execute(
                    "INSERT OR REPLACE INTO history VALUES (?, ?, ?)",
                    (name, version.version, _dump(commit.summary.to_json())),
                )
            _put_change(db, name, commit.change)

    def keep(self, job: str, version: VersionRecord) -> None:
        """Replace the record of a version, whose files are on the disk now, durably."""
        with self._transaction(self._durable) as db:
            _put_version(db, job, version)

    def load(self, job: str) -> Snapshot:
        """Return what a successor needs; clients in the order they became known."""
        versions = self._read(
            VersionRecord.from_json,
            "SELECT doc FROM versions WHERE job=? ORDER BY version DESC LIMIT 2",
            job,
        )
        version, before = (*versions, None, None)[:2]
        rounds = self._read(RoundRecord.from_json, "SELECT doc FROM rounds WHERE job=?", job)
        return Snapshot(
            version=version,
            before=None if version is None or version.kept else before,
            round=rounds[0] if rounds else None,
            claims=self._read(
                Claim.from_json, "SELECT doc FROM claims WHERE job=? ORDER BY serial", job
            ),
            transfers=self._read(
                Transfer.from_json, "SELECT doc FROM transfers WHERE job=? ORDER BY serial", job
            ),
            clients=[
                row[0]
                for row in self._rows("SELECT client FROM clients WHERE job=? ORDER BY id", job)
            ],
        )

    def add_evaluation(
        self, job: str, version: int, accuracy: float | None, loss: float | None
    ) -> bool:
        """Set a version's accuracy and loss in the history; False if there is none."""
        with self._transaction(self._durable) as db:
            row = db.execute(
                "SELECT doc FROM history WHERE job=? AND version=?", (job, version)
            ).fetchone()
            if row is None:
                return False
            doc = json.loads(row[0]) | {"accuracy": accuracy, "loss": loss}
            db.execute(
                "UPDATE history SET doc=? WHERE job=? AND version=?", (_dump(doc), job, version)
            )
            return True

    def history(self, job: str, after: int = -1) -> list[RoundSummary]:
        """Return a job's committed rounds, oldest first: those of versions above ``after``."""
        return self._read(
            RoundSummary.from_json,
            "SELECT doc FROM history WHERE job=? AND version>? ORDER BY version",
            job,
            after,
        )

    def close(self) -> None:
        """Close both connections."""
        with self._lock:
            self._quick.close()
            self._durable.close()

    def _read(
        self, make: Callable[[dict[str, Any]], T], query: str, *parameters: object
    ) -> list[T]:
        return [make(json.loads(row[0])) for row in self._rows(query, *parameters)]

    def _rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._lock, _unavailable():
            return self._quick.execute(query, parameters).fetchall()

    @contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        with self._lock, _unavailable():
            db.execute("BEGIN IMMEDIATE")
            try:
                self._check(db)
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _check(self, db: sqlite3.Connection) -> None:
        epoch, token = db.execute("SELECT epoch, token FROM authority").fetchone()
        if token != self._token:
            why = Superseded(
                f"another coordinator has taken over {self._path} (the {epoch}th that had it)"
            )
            self._superseded(why)
            raise why


def _put_version(db: sqlite3.Connection, job: str, version: VersionRecord) -> None:
    db.execute(
        "INSERT OR REPLACE INTO versions VALUES (?, ?, ?)",
        (job, version.version, _dump(version.to_json())),
    )


def _put_job(db: sqlite3.Connection, job: JobRecord) -> None:
    db.execute(
        "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)",
        (job.name, job.created, _dump(job.to_json())),
    )


def _put_change(db: sqlite3.Connection, job: str, change: Change) -> None:
    for claim in change.claims:
        db.execute(
            "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
            (job, claim.serial, claim.assignment, _dump(claim.to_json())),
        )
    for serial in change.dropped:
        db.execute("DELETE FROM claims WHERE job=? AND serial=?", (job, serial))
    for t in change.transfers:
        db.execute(
            "INSERT OR REPLACE INTO transfers VALUES (?, ?, ?, ?)",
            (job, t.assignment, t.serial, _dump(t.to_json())),
        )
    for client in change.clients:
        db.execute("INSERT OR IGNORE INTO clients (job, client) VALUES (?, ?)", (job, client))
    if change.round is not None:
        db.execute(
            "INSERT OR REPLACE INTO rounds VALUES (?, ?)", (job, _dump(change.round.to_json()))
        )
    if change.forget_before:
        for table in ("claims", "transfers"):
            db.execute(
                f"DELETE FROM {table} WHERE job=? AND assignment<?", (job, change.forget_before)
            )


def _dump(doc: dict[str, Any]) -> str:
    return json.dumps(doc, separators=(",", ":"))


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as e:
        raise Unavailable(f"the state database failed: {e}") from e
