"""State in Redis: for clusters, where the coordinator has no disk of its own.

Why: every write is one script, so a successor sees all of it or nothing, and whose
the state is is looked at in the same step: a coordinator that was superseded writes
nothing. The script costs the one round trip that a transaction did.
How durable a commit is, Redis decides: run it with ``appendonly yes`` and
``appendfsync always`` for versions that survive its power cut, or ``everysec``
to lose the last second at worst. With an append-only file and Redis 7.2 or
newer a commit also waits (WAITAOF) until that file is on the disk.

This is the one importer of redis. It must not decide anything.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from functions.coordinator.authority import (
    LAPSE_SECONDS,
    LOOK_SECONDS,
    STANDBY_SECONDS,
    Superseded,
    ignore,
)
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

log = logging.getLogger("lifl.coordinator")

PREFIX = "lifl"
TIMEOUT_SECONDS = 5.0
AOF_WAIT_MS = 2000
AT_ONCE = 500
"""Fields in one command: a script's commands have at most some 8000 words."""
REMEMBERED = 100
Command = tuple[str | int, ...]

AUTHORITY = f"{PREFIX}:authority"
SIGN = f"{PREFIX}:authority:sign"
SUPERSEDED = f"{PREFIX}:authority:superseded"

TAKE = """
-- Take the state over: the epoch, or 0 and whose it stays.
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[2] then
  if redis.call('EXISTS', KEYS[2]) == 1 and redis.call('ZSCORE', KEYS[3], ARGV[2]) then
    return {0, holder}
  end
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
if holder and holder ~= ARGV[2] then
  redis.call('ZADD', KEYS[3], epoch, holder)
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - ARGV[4])
end
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'holder', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return {epoch, ARGV[2]}
"""
WRITE = """
-- Do the commands that follow the token, each after its number of words, if the state is ours.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return false
end
local answers, at = {}, 2
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  answers[#answers + 1] = redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return answers
"""


class RedisStore:
    """See :class:`functions.coordinator.state.StateStore`.

    Keys: ``lifl:jobs`` (hash name → job), and per job ``lifl:job:NAME:`` with
    ``round`` (string), ``claims``, ``transfers``, ``versions``, ``history``
    (hashes number → record) and ``clients`` (sorted by when they were seen first).

    Whose all that is: ``lifl:authority`` (hash ``epoch``, ``holder``: the host, that is on
    a cluster the pod; ``token``: the process), ``...:sign`` (there while it lives) and
    ``...:superseded`` (hosts that had it before). The last who started has it. Only a host
    that was superseded, which its platform starts again, waits until the present one gives
    no sign: else the two would end one another for as long as both are started.

    ``holder`` is for tests, ``standby`` how many seconds to wait then.
    """

    def __init__(
        self,
        url: str,
        password: str = "",
        superseded: Callable[[Superseded], None] = ignore,
        *,
        holder: str = "",
        standby: float = STANDBY_SECONDS,
    ) -> None:
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
        self._superseded = superseded
        self._holder = holder or socket.gethostname()
        self._token = secrets.token_hex(8)  # an epoch that a failing Redis forgot comes again
        self._take, self._script = map(self._db.register_script, (TAKE, WRITE))
        self._take_over(standby)

    def _take_over(self, standby: float) -> None:
        """Make the state ours, as soon as it may be; raises Unavailable after ``standby``."""
        keys = (AUTHORITY, SIGN, SUPERSEDED)
        words = (self._token, self._holder, _ms(LAPSE_SECONDS), REMEMBERED)
        deadline, said = time.monotonic() + standby, False
        while True:
            with _unavailable():
                epoch, holder = self._take(keys, words)
            if epoch:
                with _unavailable():
                    self._wait()
                log.info("the state is ours: %s, epoch %d", holder, epoch)
                return
            if not said:
                log.warning("the state is %s's, which superseded this one: standing by", holder)
                said = True
            if time.monotonic() >= deadline:
                raise Unavailable(f"the state is {holder}'s, which superseded this one and lives")
            time.sleep(min(LOOK_SECONDS, standby))

    def confirm(self) -> None:
        """Do nothing if the state is still ours, but give a sign."""
        with _unavailable():
            self._write([("SET", SIGN, self._token, "PX", _ms(LAPSE_SECONDS))])

    def create_job(self, job: JobRecord) -> bool:
        """Add a job; False if the name is taken."""
        with _unavailable():
            new = self._write([("HSETNX", f"{PREFIX}:jobs", job.name, _dump(job.to_json()))])
            return bool(new[0])

    def put_job(self, job: JobRecord) -> None:
        """Replace a job's record, durably."""
        with _unavailable():
            self._write([("HSET", f"{PREFIX}:jobs", job.name, _dump(job.to_json()))])
            self._wait()

    def remove_job(self, name: str, marker: JobRecord | None = None) -> None:
        """Forget all of a job in one transaction, durably; ``marker`` takes its record's place."""
        parts = ("round", "claims", "transfers", "clients", "versions", "history")
        commands: list[Command] = [("DEL", *(_key(name, part) for part in parts))]
        if marker is None:
            commands.append(("HDEL", f"{PREFIX}:jobs", name))
        else:
            commands.append(("HSET", f"{PREFIX}:jobs", name, _dump(marker.to_json())))
        with _unavailable():
            self._write(commands)
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
            self._write(list(self._changing(job, change)))

    def commit(self, commit: Commit) -> None:
        """Write a version in one transaction; as durable on return as Redis makes it."""
        name, number = commit.job.name, commit.version.version
        commands: list[Command] = [
            ("HSET", f"{PREFIX}:jobs", name, _dump(commit.job.to_json())),
            ("HSET", _key(name, "versions"), number, _dump(commit.version.to_json())),
        ]
        if commit.summary is not None:
            summary = _dump(commit.summary.to_json())
            commands.append(("HSET", _key(name, "history"), number, summary))
        with _unavailable():
            self._write([*commands, *self._changing(name, commit.change)])
            self._wait()

    def keep(self, job: str, version: VersionRecord) -> None:
        """Replace the record of a version, whose files are on the disk now, durably."""
        doc = _dump(version.to_json())
        with _unavailable():
            self._write([("HSET", _key(job, "versions"), version.version, doc)])
            self._wait()

    def load(self, job: str) -> Snapshot:
        """Return what a successor needs; clients in the order they became known."""
        with _unavailable():
            last = sorted(self._db.hkeys(_key(job, "versions")), key=int)[-2:]
            versions = self._db.hmget(_key(job, "versions"), last) if last else []
            round_doc = self._db.get(_key(job, "round"))
            claims = self._db.hvals(_key(job, "claims"))
            transfers = self._db.hvals(_key(job, "transfers"))
            clients = self._db.zrange(_key(job, "clients"), 0, -1)
        records = [VersionRecord.from_json(json.loads(doc)) for doc in versions if doc is not None]
        version = records[-1] if records else None
        return Snapshot(
            version=version,
            before=records[0] if len(records) > 1 and version and not version.kept else None,
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
            self._write([("HSET", key, version, _dump(doc))])
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

    def _write(self, commands: list[Command]) -> list[Any]:
        """Do the commands in one step and return their answers; raises Superseded."""
        words = [word for command in commands for word in (len(command), *command)]
        answers = self._script((AUTHORITY,), (self._token, *words))
        if answers is None:
            epoch, holder = self._db.hmget(AUTHORITY, "epoch", "holder")
            why = Superseded(
                f"another coordinator has taken over the state ({holder}, epoch {epoch})"
                if holder
                else "the state is gone: Redis was emptied"
            )
            self._superseded(why)
            raise why
        return list(answers)

    def _changing(self, job: str, change: Change) -> Iterator[Command]:
        """Return the commands that make a change.

        Some look something up before the step: if it is made, nobody else wrote in between.
        """
        claims, transfers = _key(job, "claims"), _key(job, "transfers")
        for claim in change.claims:
            yield ("HSET", claims, claim.serial, _dump(claim.to_json()))
        yield from _many("HDEL", claims, (str(s) for s in change.dropped))
        for t in change.transfers:
            yield ("HSET", transfers, f"{t.assignment}/{t.serial}", _dump(t.to_json()))
        if change.clients:
            first = self._db.zcard(_key(job, "clients"))
            for i, client in enumerate(change.clients):
                yield ("ZADD", _key(job, "clients"), "NX", first + i, client)
        if change.round is not None:
            yield ("SET", _key(job, "round"), _dump(change.round.to_json()))
        if change.forget_before:
            yield from self._forgetting(job, change)

    def _forgetting(self, job: str, change: Change) -> Iterator[Command]:
        """Return what deletes the claims and transfers of assignments that are over."""
        for kind in ("claims", "transfers"):
            docs = self._db.hgetall(_key(job, kind))
            old = [
                field
                for field, doc in docs.items()
                if json.loads(doc)["assignment"] < change.forget_before
            ]
            yield from _many("HDEL", _key(job, kind), old)

    def _wait(self) -> None:
        if self._wait_aof:
            self._db.execute_command("WAITAOF", 1, 0, AOF_WAIT_MS)


def _many(name: str, key: str, fields: Iterable[str]) -> Iterator[Command]:
    rest = list(fields)
    for start in range(0, len(rest), AT_ONCE):
        yield (name, key, *rest[start : start + AT_ONCE])


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


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
