"""Checkpoints behind: readers first, then the disk; and what becomes of a version lost between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from functions.coordinator.checkpoint import Draft
from functions.coordinator.metrics import Metrics
from functions.coordinator.records import Phase
from functions.coordinator.strategies import apply, make
from lifl.store import Seal, SlotKind, SlotState

from .kit import MODEL, Stage, flat, job_file, until, update
from .test_engine import fill_round, post

ROUNDS = 5


class Disk:
    """The syncing of checkpoints, which can be held up or fail."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.failing = False
        self.tried = 0

    def keep(self, draft: Draft, real: Callable[[Draft], None]) -> None:
        self.tried += 1
        assert self.open.wait(10)
        if self.failing:
            raise OSError(28, "No space left on device")
        real(draft)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made, real = Disk(), Draft.keep
    monkeypatch.setattr(Draft, "keep", lambda draft: made.keep(draft, real))
    monkeypatch.setattr("functions.coordinator.engine.COMMIT_RETRY_SECONDS", 0.05)
    return made


@pytest.fixture
def stage(tmp_path: Path, disk: Disk) -> Iterator[Stage]:
    made = Stage(tmp_path, LIFL_CHECKPOINT_BEHIND="on")
    yield made
    disk.open.set()
    made.close()


def submit(stage: Stage, **spec: Any) -> Any:
    return stage.submit(job_file(**{"rounds": ROUNDS} | spec))


def lose_pool(stage: Stage) -> Any:
    """End the coordinator and the pool, as a power cut does, and start anew."""
    stage.coordinator.close()
    old = stage.agent.pool.geometry
    sizes = ("slots", "float_bytes", "meta_bytes")
    stage.agent.pool.close()
    stage.agent.create({name: getattr(old, name) for name in sizes})
    stage.start()
    return stage.job()


def models(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state" / "checkpoints" / "digits").glob("v*.safetensors"))


def told(stage: Stage) -> tuple[bool, float | None]:
    """Return what a person and Prometheus are told: whether the present version is on the disk."""
    registry = Metrics(stage.coordinator).registry
    status = stage.coordinator.jobs.status("digits")
    return status["kept"], registry.get_sample_value("lifl_job_kept", {"job": "digits"})


def test_readers_have_a_version_before_the_disk_has(stage, disk, tmp_path):
    job = submit(stage)
    disk.open.clear()
    expected = fill_round(stage, job)
    np.testing.assert_allclose(flat(stage.agent.model()), expected["floats"], rtol=1e-5, atol=1e-6)
    assert not job.version.kept
    assert told(stage) == (False, 0.0)
    assert [p.name[:7] for p in models(tmp_path)] == ["v000000"]
    disk.open.set()
    until(lambda: job.version.kept)
    assert told(stage) == (True, 1.0)
    np.testing.assert_array_equal(flat(load_file(models(tmp_path)[-1])), flat(stage.agent.model()))
    stored = stage.store.load("digits")
    assert (stored.version, stored.before) == (job.version, None)


def test_the_next_version_waits_for_the_one_before(stage, disk):
    job = submit(stage)
    disk.open.clear()
    fill_round(stage, job)
    stage.plan(job)
    serials = {post(job, f"c{i}"): (1, update(i)) for i in range(2)}
    stage.agent.partial(job.assignment, serials)
    until(lambda: job.rounds.phase is Phase.COMMITTING)
    assert job.rounds.version == 1
    disk.open.set()
    until(lambda: job.rounds.version == 2)
    assert [h.aggregated for h in stage.coordinator.jobs.history("digits")] == [2, 2]


def test_a_disk_that_fails_holds_up_the_next_version_until_it_works(stage, disk):
    job = submit(stage)
    disk.failing = True
    fill_round(stage, job)
    stage.plan(job)
    serials = {post(job, f"c{i}"): (1, update(i)) for i in range(2)}
    tried = disk.tried
    stage.agent.partial(job.assignment, serials)
    until(lambda: disk.tried > tried + 2)
    assert job.rounds.version == 1
    disk.failing = False
    until(lambda: job.rounds.version == 2)
    until(lambda: job.version.kept)


def test_who_waits_for_the_disk_does_not_wait_for_it_to_begin(stage, monkeypatch):
    """The rest is for those who want the version; the next one's maker is not to be kept up."""
    monkeypatch.setattr("functions.coordinator.keeper.REST_SECONDS", 60.0)
    job = submit(stage)
    fill_round(stage, job)
    assert not job.version.kept
    fill_round(stage, job)
    assert [h.version for h in stage.coordinator.jobs.history("digits")] == [1, 2]
    stage.restart()
    until(lambda: stage.store.load("digits").version.kept)


def test_what_lies_in_the_pool_alone_is_kept_by_a_successor(stage, disk, tmp_path):
    job = submit(stage)
    disk.failing = True
    fill_round(stage, job)
    before, place = stage.agent.model(), job.model
    stage.coordinator.close()
    disk.failing = False
    stage.start()
    job = stage.job()
    assert (job.rounds.version, job.model) == (1, place)
    until(lambda: job.version.kept)
    np.testing.assert_array_equal(flat(load_file(models(tmp_path)[-1])), flat(before))


@pytest.mark.parametrize("name", ["fedavg", "fedavgm"])
def test_a_lost_version_makes_place_for_the_one_before_under_the_next_number(stage, disk, name):
    """Nobody sees two models under one number, and nobody waits for a round that was."""
    job = submit(stage, strategy={"name": name})
    strategy, model, state = make(name, {}), flat(MODEL), {}
    mean = fill_round(stage, job)["floats"].astype(np.float32)
    model, state = apply(strategy, model, mean, state)
    until(lambda: job.version.kept)
    disk.failing = True
    fill_round(stage, job)
    disk.failing = False
    assert job.rounds.version == 2
    stage.coordinator.close()  # tries once more, behind
    stage.start()
    job = stage.job()
    until(lambda: job.version.kept)  # it was in the pool: not lost
    assert job.rounds.version == 2
    disk.failing = True
    kept = flat(stage.agent.model()).copy()
    fill_round(stage, job)
    job = lose_pool(stage)
    disk.failing = False
    assert (job.rounds.version, job.rounds.record.round, job.rounds.phase) == (4, 5, "planning")
    np.testing.assert_array_equal(flat(stage.agent.model()), kept)
    assert (job.version.version, job.version.kept) == (4, True)
    stage.restart()
    job = stage.job()
    assert (job.rounds.version, job.rounds.record.round) == (4, 5)
    fill_round(stage, job)
    assert [h.version for h in stage.coordinator.jobs.history("digits")] == [1, 2, 3, 5]
    assert job.over


def test_a_lost_version_takes_its_optimizers_state_along(stage, disk):
    job = submit(stage, strategy={"name": "fedavgm", "momentum": 0.5})
    strategy, model, state = make("fedavgm", {"momentum": 0.5}), flat(MODEL), {}
    mean = fill_round(stage, job)["floats"].astype(np.float32)
    model, state = apply(strategy, model, mean, state)
    until(lambda: job.version.kept)
    disk.failing = True
    fill_round(stage, job)
    job = lose_pool(stage)
    disk.failing = False
    np.testing.assert_allclose(flat(stage.agent.model()), model, rtol=1e-4, atol=1e-5)
    mean = fill_round(stage, job)["floats"].astype(np.float32)
    model, state = apply(strategy, model, mean, state)
    np.testing.assert_allclose(flat(stage.agent.model()), model, rtol=1e-4, atol=1e-5)


def test_what_was_posted_for_a_lost_version_is_asked_for_again(stage, disk):
    job = submit(stage)
    disk.failing = True
    fill_round(stage, job)
    stage.plan(job)
    post(job, "c0")
    job = lose_pool(stage)
    disk.failing = False
    assert (job.rounds.record.round, job.rounds.book.accepted) == (3, 0)
    assert job.rounds.record.assignment == 3
    fill_round(stage, job)
    assert job.rounds.version == 3


def test_the_last_version_is_on_the_disk_before_the_job_is_done(stage, disk):
    job = submit(stage, rounds=1)
    disk.open.clear()
    stage.plan(job)
    serials = {post(job, f"c{i}"): (1, update(i)) for i in range(2)}
    stage.agent.partial(job.assignment, serials)
    until(lambda: disk.tried == 2)  # version 0, and this one
    assert job.rounds.phase is Phase.COMMITTING
    disk.open.set()
    until(lambda: job.over)
    assert job.version.kept


def test_a_round_beyond_the_last_is_played_for_a_lost_one(stage, disk):
    """The version that is lost is the last but one; without, the model would be one round short."""
    job = submit(stage, rounds=2)
    disk.failing = True
    fill_round(stage, job)
    job = lose_pool(stage)
    disk.failing = False
    assert (job.rounds.record.round, job.over) == (3, False)
    fill_round(stage, job)
    assert (job.rounds.version, job.over) == (3, True)


@pytest.mark.parametrize("pool", [True, False])
def test_a_stopped_job_whose_version_is_lost_has_the_one_before(stage, disk, pool):
    job = submit(stage)
    disk.failing = True
    fill_round(stage, job)
    stage.coordinator.jobs.stop("digits")
    if pool:
        job = lose_pool(stage)
    else:
        stage.coordinator.close()
        stage.agent.refuse = True
        stage.start()
        job = stage.coordinator.jobs.get("digits")
        until(lambda: job.version.kept)
    assert (job.rounds.version, job.version.version, job.over) == (2, 2, True)
    assert job.version.model_file.startswith("v000000")


def test_a_model_that_was_sealed_but_never_in_force_is_not_taken_for_the_version(stage, disk):
    """A predecessor may die between its seal and its transaction; its round is played again."""
    job = submit(stage)
    disk.failing = True
    fill_round(stage, job)
    right = job.model
    pool = stage.agent.pool
    stale = pool.reserve(SlotKind.MODEL, 7, 0)
    entry = pool.entry(right.slot)
    pool.seal(stale, 7, Seal(99, 0.0, entry.doc_start, entry.doc_bytes, base_version=1))
    stage.restart()
    assert stage.job().model == right
    until(lambda: pool.entry(stale.slot).state is SlotState.FREE)


def test_nothing_of_a_version_that_could_not_be_put_in_force_is_left(stage, monkeypatch, tmp_path):
    job = submit(stage, strategy={"name": "fedavgm"})
    stage.plan(job)
    serials = {post(job, f"c{i}"): (1, update(i)) for i in range(2)}
    allowed, tried, real = threading.Event(), [0], stage.store.commit

    def commit(what: Any) -> None:
        tried[0] += 1
        if not allowed.is_set():
            raise OSError(5, "Input/output error")
        real(what)

    monkeypatch.setattr(stage.store, "commit", commit)
    stage.agent.partial(job.assignment, serials)
    until(lambda: tried[0] > 3)
    directory = tmp_path / "state" / "checkpoints" / "digits"
    assert stage.agent.pool.usage().sealed <= 2  # the present one, and perhaps one being tried
    allowed.set()
    until(lambda: job.rounds.version == 1)
    until(lambda: job.version.kept)
    until(lambda: stage.agent.pool.usage().free == stage.agent.pool.geometry.slots - 1)
    assert len(list(directory.glob("v000001*"))) == 2


def test_many_rounds_leave_nothing_behind_but_what_is_kept(tmp_path, no_leaks):
    stage = Stage(tmp_path, LIFL_CHECKPOINT_BEHIND="on", LIFL_KEEP_VERSIONS="1")
    job = stage.submit(job_file(rounds=9, strategy={"name": "fedadam"}))
    for _ in range(8):
        fill_round(stage, job)
    until(lambda: job.version.kept)
    until(lambda: len(models(tmp_path)) == 1)
    stage.close()
    files = {p.name.partition("-")[0] for p in models(tmp_path)[0].parent.iterdir()}
    assert files == {"v000008", "spare"}
