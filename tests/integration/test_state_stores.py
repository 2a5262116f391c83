"""One suite against both real stores: a SQLite file and a redis-server of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from functions.coordinator.records import (
    Claim,
    ClaimState,
    JobRecord,
    JobState,
    Phase,
    RoundRecord,
    RoundSummary,
    Transfer,
    VersionRecord,
)
from functions.coordinator.state import Change, Commit, StateStore, open_store
from lifl.errors import ConfigError, Unavailable

JOB = JobRecord("digits", {"spec": {"rounds": 2}}, 12.5, "ab" * 32, 1000)
ROUND = RoundRecord(1, 1, 1, Phase.OPEN, 1.0, 1025, selected=("a", "b"), goal=2, plan={"x": [1]})
VERSION = VersionRecord(1, 1, 1, (1, 2), 20.0, "v000001.safetensors", {"m": "v000001.m.f32"}, 3.0)
SUMMARY = RoundSummary(1, 1, 1, 2, 2, 20.0, 1.0, 2.0, 3.0, 2.5, {"loss": 0.5})


def claim(serial: int, assignment: int = 1, **changes: object) -> Claim:
    made = Claim(serial, assignment, f"client-{serial}", "node-0", "node-0", 10, 4096)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def transfer(serial: int, assignment: int = 1) -> Transfer:
    return Transfer(serial, assignment, "node-1", "node-0", (serial, serial + 1), 2.5, True, 3, 4)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """Start a redis-server on a UNIX socket of the test's own; stop it by its process."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("redis-server is not installed (apt-get install redis-server)")
    socket = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path), "--save", ""]
    with (tmp_path / "redis.log").open("wb") as log:
        server = subprocess.Popen([program, *options, "--appendonly", "yes"], stdout=log)
    try:
        client = redis.Redis(unix_socket_path=str(socket))
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        client.close()
        yield f"unix://{socket}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/state/lifl.db"
    return str(request.getfixturevalue("redis_url"))


@pytest.fixture
def reopen(url: str) -> Iterator[Callable[[], StateStore]]:
    """Open the store as a successor does."""
    opened: list[StateStore] = []

    def open_again() -> StateStore:
        opened.append(open_store(url))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Callable[[], StateStore]) -> StateStore:
    return reopen()


def test_jobs_keep_their_order_and_names_are_unique(store, reopen):
    assert store.create_job(replace(JOB, name="second", created=2.0))
    assert store.create_job(replace(JOB, name="first", created=1.0))
    assert not store.create_job(replace(JOB, name="first", created=9.0))
    store.put_job(replace(JOB, name="second", created=2.0, state=JobState.STOPPED, detail="why"))
    jobs = reopen().jobs()
    assert [(j.name, j.state, j.detail) for j in jobs] == [
        ("first", "submitted", ""),
        ("second", "stopped", "why"),
    ]
    assert jobs[0] == replace(JOB, name="first", created=1.0)


def test_a_new_job_has_nothing(store):
    store.create_job(JOB)
    snapshot = store.load("digits")
    assert (snapshot.version, snapshot.round) == (None, None)
    assert not (snapshot.claims or snapshot.transfers or snapshot.clients)
    assert store.history("digits") == []


def test_a_successor_reads_what_was_written(store, reopen):
    sealed = claim(1, state=ClaimState.SEALED, digest="d", metrics={"loss": 1.5})
    change = Change(
        claims=[sealed, claim(2)], transfers=[transfer(1)], clients=["b", "a"], round=ROUND
    )
    store.write("digits", change)
    snapshot = reopen().load("digits")
    assert snapshot.round == ROUND
    assert list(snapshot.claims) == [sealed, claim(2)]
    assert list(snapshot.transfers) == [transfer(1)]
    assert list(snapshot.clients) == ["b", "a"]


def test_everyone_may_be_selected(store):
    store.write("digits", Change(round=replace(ROUND, selected=None, plan=None)))
    assert store.load("digits").round == replace(ROUND, selected=None, plan=None)


def test_writes_replace_drop_and_forget(store):
    store.write("digits", Change(claims=[claim(1), claim(2), claim(3, 2)]))
    store.write("digits", Change(transfers=[transfer(1), transfer(2, 2)]))
    store.write("digits", Change(claims=[claim(1, state=ClaimState.LOST)], dropped=[2]))
    snapshot = store.load("digits")
    assert [(c.serial, c.state) for c in snapshot.claims] == [(1, "lost"), (3, "claimed")]
    store.write("digits", Change(forget_before=2, claims=[claim(4, 2)]))
    snapshot = store.load("digits")
    assert [c.serial for c in snapshot.claims] == [3, 4]
    assert [t.assignment for t in snapshot.transfers] == [2]


def test_clients_keep_the_order_they_were_seen_in(store):
    store.write("digits", Change(clients=["c", "a"]))
    store.write("digits", Change(clients=["b", "c"]))
    assert list(store.load("digits").clients) == ["c", "a", "b"]


def test_large_serials_survive(store):
    top = 2**63 - 1
    store.write("digits", Change(claims=[claim(top)]))
    assert store.load("digits").claims[0].serial == top


def test_jobs_do_not_see_each_other(store):
    store.write("digits", Change(claims=[claim(1)], clients=["a"], round=ROUND))
    store.write("other", Change(dropped=[1], forget_before=99))
    snapshot = store.load("other")
    assert snapshot.round is None and not snapshot.claims and not snapshot.clients
    assert len(store.load("digits").claims) == 1


def test_a_commit_is_one_step(store, reopen):
    store.create_job(JOB)
    store.write("digits", Change(claims=[claim(1), claim(2)], round=ROUND))
    done = replace(JOB, state=JobState.DONE)
    following = replace(ROUND, round=2, assignment=2)
    change = Change(round=following, forget_before=1)
    store.commit(Commit(done, VERSION, change, SUMMARY))
    again = reopen()
    snapshot = again.load("digits")
    assert (snapshot.version, snapshot.round) == (VERSION, following)
    assert len(snapshot.claims) == 2
    assert again.jobs() == [done]
    assert again.history("digits") == [SUMMARY]


def test_the_last_version_is_loaded_and_a_commit_may_be_repeated(store):
    for number in (0, 1, 2, 10, 10):
        store.commit(
            Commit(
                JOB, replace(VERSION, version=number), Change(), replace(SUMMARY, version=number)
            )
        )
    assert store.load("digits").version.version == 10
    assert [s.version for s in store.history("digits")] == [0, 1, 2, 10]


def test_evaluations_belong_to_a_committed_version(store):
    store.commit(Commit(JOB, VERSION, Change(), SUMMARY))
    assert store.add_evaluation("digits", 1, 0.95, None)
    assert not store.add_evaluation("digits", 2, 0.5, 0.1)
    assert store.history("digits") == [replace(SUMMARY, accuracy=0.95)]


def test_history_after_a_version(store):
    for number in (1, 2, 11):
        version, summary = replace(VERSION, version=number), replace(SUMMARY, version=number)
        store.commit(Commit(JOB, version, Change(), summary))
    assert [s.version for s in store.history("digits", 1)] == [2, 11]
    assert [s.version for s in store.history("digits", 2)] == [11]
    assert store.history("digits", 11) == []


def test_a_removed_job_leaves_nothing_but_its_marker(store, reopen):
    for name in ("digits", "other"):
        store.create_job(replace(JOB, name=name))
        change = Change(claims=[claim(1)], transfers=[transfer(1)], clients=["a"], round=ROUND)
        store.write(name, change)
        store.commit(Commit(replace(JOB, name=name), VERSION, Change(), SUMMARY))
    marker = replace(JOB, state=JobState.DELETED, spec={})
    store.remove_job("digits", marker)
    again = reopen()
    assert [(j.name, j.state) for j in again.jobs()] == [
        ("digits", "deleted"),
        ("other", "submitted"),
    ]
    snapshot = again.load("digits")
    assert (snapshot.version, snapshot.round) == (None, None)
    assert not (snapshot.claims or snapshot.transfers or snapshot.clients)
    assert again.history("digits") == []
    assert not store.create_job(JOB)
    store.remove_job("digits")
    assert store.create_job(JOB)
    assert reopen().load("other").version == VERSION
    assert len(reopen().history("other")) == 1


def test_a_job_of_the_time_before_owners_is_read(url, store, reopen):
    store.create_job(JOB)
    raw = JOB.to_json()
    del raw["owner"]
    if url.startswith("sqlite"):
        db = sqlite3.connect(url.removeprefix("sqlite://"))
        db.execute("UPDATE jobs SET doc=?", (json.dumps(raw),))
        db.commit()
        db.close()
    else:
        client = redis.Redis.from_url(url)
        client.hset("lifl:jobs", "digits", json.dumps(raw))
        client.close()
    assert reopen().jobs() == [JOB]


def test_threads_may_share_a_store(store):
    def write(start: int) -> None:
        for serial in range(start, start + 50):
            store.write("digits", Change(claims=[claim(serial)]))

    threads = [threading.Thread(target=write, args=(i * 100,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(store.load("digits").claims) == 200


WRITER = """
import sys
from functions.coordinator.records import Claim
from functions.coordinator.state import Change, open_store
store = open_store(sys.argv[1])
serial = 0
while True:
    serial += 1
    store.write("digits", Change(claims=[Claim(serial, 1, f"c{serial}", "n", "n", 1, 1)]))
    print(serial, flush=True)
"""


def test_what_a_killed_process_wrote_is_there(url, reopen):
    """SIGKILL in the middle of writing: everything it had reported is in the store."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True, env=env
    )
    assert writer.stdout is not None
    last = 0
    while last < 200:
        last = int(writer.stdout.readline())
    writer.kill()
    reported = [int(line) for line in writer.stdout.read().split("\n")[:-1]] or [last]
    writer.wait()
    writer.stdout.close()
    serials = [c.serial for c in reopen().load("digits").claims]
    assert serials == list(range(1, len(serials) + 1))
    assert len(serials) >= reported[-1]


def test_a_transaction_that_fails_changes_nothing(store, reopen):
    store.write("digits", Change(claims=[claim(1)]))
    broken = Change(claims=[claim(2), claim(3, metrics={"not json": object()})])
    with pytest.raises(TypeError):
        store.write("digits", broken)
    assert [c.serial for c in reopen().load("digits").claims] == [1]
    store.write("digits", Change(claims=[claim(4)]))
    assert len(store.load("digits").claims) == 2


def test_sqlite_that_fails_is_unavailable(tmp_path):
    store = open_store(f"sqlite://{tmp_path}/lifl.db")
    other = sqlite3.connect(tmp_path / "lifl.db")
    other.execute("DROP TABLE claims")
    other.close()
    with pytest.raises(Unavailable, match="claims"):
        store.write("digits", Change(claims=[claim(1)]))
    store.close()


def test_redis_that_does_not_answer_is_unavailable(tmp_path):
    with pytest.raises(Unavailable):
        open_store(f"unix://{tmp_path}/nobody.sock")


def test_redis_may_ask_for_a_password(redis_url):
    client = redis.Redis.from_url(redis_url)
    client.config_set("requirepass", "topsecret")
    client.close()
    for password in ("", "wrong"):
        with pytest.raises(Unavailable) as caught:
            open_store(redis_url, password)
        assert "topsecret" not in str(caught.value)
    open_store(redis_url, "topsecret").close()


@pytest.mark.parametrize("url", ["mysql://x", "sqlite:relative", "", "sqlite://relative.db"])
def test_other_urls_are_refused(url):
    with pytest.raises(ConfigError, match="LIFL_STATE_URL"):
        open_store(url)


def test_the_database_is_its_owners_alone(tmp_path):
    store = open_store(f"sqlite://{tmp_path}/deep/lifl.db")
    assert (tmp_path / "deep" / "lifl.db").stat().st_mode & 0o077 == 0
    store.close()
