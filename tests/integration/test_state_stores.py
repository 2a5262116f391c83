"""One suite against both real stores: a SQLite file and a redis-server of the test's own."""

from __future__ import annotations

import json
import os
import secrets
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.coordinator import state_redis
from functions.coordinator.authority import Superseded
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
from functions.coordinator.state_redis import RedisStore
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


def test_a_version_may_be_kept_after_it_is_in_force(store, reopen):
    store.create_job(JOB)
    behind = replace(VERSION, version=2, kept=False, serial=2**61 + 5)
    store.commit(Commit(JOB, VERSION, Change(round=ROUND)))
    store.commit(Commit(JOB, behind, Change(round=ROUND)))
    snapshot = reopen().load("digits")
    assert (snapshot.version, snapshot.before) == (behind, VERSION)
    there = replace(behind, kept=True, model_file="v000002-ab.safetensors")
    store = reopen()
    store.keep("digits", there)
    snapshot = reopen().load("digits")
    assert (snapshot.version, snapshot.before) == (there, None)


def test_who_was_superseded_keeps_nothing(store, reopen):
    store.create_job(JOB)
    store.commit(Commit(JOB, replace(VERSION, kept=False), Change(round=ROUND)))
    successor = reopen()
    with pytest.raises(Superseded):
        store.keep("digits", VERSION)
    assert successor.load("digits").version == replace(VERSION, kept=False)


def test_a_version_of_before_this_field_is_kept():
    old = VERSION.to_json()
    del old["kept"], old["serial"]
    assert VersionRecord.from_json(old) == VERSION


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
    assert not again.create_job(JOB)
    again.remove_job("digits")
    assert again.create_job(JOB)
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
    again = reopen()
    assert [c.serial for c in again.load("digits").claims] == [1]
    again.write("digits", Change(claims=[claim(4)]))
    assert len(again.load("digits").claims) == 2


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


# -- whose it is ---------------------------------------------------------------

WRITES: dict[str, Callable[[StateStore], object]] = {
    "create_job": lambda s: s.create_job(replace(JOB, name="late")),
    "put_job": lambda s: s.put_job(replace(JOB, state=JobState.STOPPED)),
    "remove_job": lambda s: s.remove_job("digits"),
    "write": lambda s: s.write("digits", Change(claims=[claim(9)], clients=["z"], dropped=[1])),
    "commit": lambda s: s.commit(
        Commit(
            replace(JOB, state=JobState.DONE),
            replace(VERSION, version=2),
            Change(round=replace(ROUND, round=3), forget_before=9),
            replace(SUMMARY, version=2),
        )
    ),
    "add_evaluation": lambda s: s.add_evaluation("digits", 1, 0.1, 0.2),
    "confirm": lambda s: s.confirm(),
}


def everything(store: StateStore) -> tuple[object, ...]:
    return store.jobs(), store.load("digits"), store.history("digits")


def fill(store: StateStore) -> None:
    store.create_job(JOB)
    store.write("digits", Change(claims=[claim(1)], clients=["a"], transfers=[transfer(1)]))
    store.commit(Commit(JOB, VERSION, Change(round=ROUND), SUMMARY))


@pytest.mark.parametrize("late", WRITES)
def test_who_was_superseded_writes_nothing(url, late):
    told: list[Superseded] = []
    old = open_store(url, superseded=told.append)
    fill(old)
    new = open_store(url, superseded=lambda _: pytest.fail("the newest is superseded by nobody"))
    before = everything(new)
    for _ in range(2):
        with pytest.raises(Superseded, match="taken over"):
            WRITES[late](old)
    assert len(told) == 2
    assert everything(new) == before
    for write in WRITES.values():
        write(new)
    assert everything(new) != before
    old.close()
    new.close()


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(["open", "write"]), st.integers(0, 5))))
def test_at_any_time_only_the_last_who_opened_it_writes(url, reopen, steps):
    """Whatever the order in which coordinators start and write."""
    stores, job = [reopen()], secrets.token_hex(8)
    written: list[int] = []
    for serial, (step, which) in enumerate(steps):
        if step == "open":
            stores.append(reopen())
            assert [c.serial for c in stores[-1].load(job).claims] == written
            continue
        store = stores[which % len(stores)]
        if store is stores[-1]:
            store.write(job, Change(claims=[claim(serial)]))
            written.append(serial)
        else:
            with pytest.raises(Superseded):
                store.write(job, Change(claims=[claim(serial)]))
    assert [c.serial for c in stores[-1].load(job).claims] == written


def test_two_that_write_at_once_never_both_succeed_after_a_takeover(url):
    """What the old one was told is written is what the new one reads, to the last claim."""
    old = open_store(url)
    done: list[int] = []

    def write() -> None:
        with pytest.raises(Superseded):
            for serial in range(100_000):
                old.write("digits", Change(claims=[claim(serial)]))
                done.append(serial)

    writer = threading.Thread(target=write)
    writer.start()
    while len(done) < 50:
        time.sleep(0.001)
    new = open_store(url)
    found = [c.serial for c in new.load("digits").claims]
    writer.join()
    assert [c.serial for c in new.load("digits").claims] == found == done
    old.close()
    new.close()


def test_many_fields_go_in_one_step(store):
    """More than a script takes in one command."""
    claims = [claim(serial) for serial in range(9000)]
    store.write("digits", Change(claims=claims, clients=[c.client for c in claims]))
    assert len(store.load("digits").clients) == 9000
    store.write("digits", Change(dropped=list(range(8500))))
    assert len(store.load("digits").claims) == 500
    store.write("digits", Change(forget_before=2))
    assert not store.load("digits").claims


def test_a_superseded_host_that_starts_again_waits_for_the_newer_one_to_go(redis_url, monkeypatch):
    """A platform restarts what ended; the two must not end one another in turn."""
    monkeypatch.setattr(state_redis, "LAPSE_SECONDS", 0.6)
    monkeypatch.setattr(state_redis, "LOOK_SECONDS", 0.05)

    def start(pod: str, standby: float = 0.0) -> RedisStore:
        opened.append(RedisStore(redis_url, holder=pod, standby=standby))
        return opened[-1]

    opened: list[RedisStore] = []
    old = start("pod-a")
    new = start("pod-b")
    with pytest.raises(Superseded, match=r"pod-b, epoch 2"):
        old.confirm()
    for _ in range(3):
        new.confirm()
        with pytest.raises(Unavailable, match=r"pod-b's"):
            start("pod-a")
    new = start("pod-b")  # its process was restarted: nobody else had it
    new.confirm()
    third = start("pod-c")  # nor has a pod that was never superseded to wait
    with pytest.raises(Superseded):
        new.confirm()
    third.confirm()
    began = time.monotonic()
    again = start("pod-a", standby=10.0)  # pod-c gives no sign any more
    assert 0.3 < time.monotonic() - began < 5
    again.confirm()
    with pytest.raises(Superseded):
        third.confirm()
    with pytest.raises(Unavailable):
        start("pod-c")
    for store in opened:
        store.close()


def test_an_emptied_redis_is_nobodys(redis_url):
    store = open_store(redis_url)
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    client.close()
    with pytest.raises(Superseded, match="emptied"):
        store.write("digits", Change(claims=[claim(1)]))
    store.close()
    again = open_store(redis_url)
    assert not again.load("digits").claims
    again.close()
