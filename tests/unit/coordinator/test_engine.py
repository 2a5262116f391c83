"""The data thread: partials in, versions out; every step done once, whatever dies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from functions.coordinator import optimizer
from functions.coordinator.records import Phase
from functions.coordinator.shelf import Shelf
from functions.coordinator.strategies import apply, make
from functions.coordinator.updates import ClaimRequest, Place
from lifl.errors import PoolBusy, Unavailable
from lifl.store import SlotKind, SlotState

from .kit import MODEL, Stage, flat, job_file, until, update


@pytest.fixture(params=["first", "behind"])
def stage(request, tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Make a stage; each test runs with the checkpoint first, and behind."""
    made: list[Stage] = []
    behind = "on" if request.param == "behind" else "off"

    def make_stage(**env: str) -> Stage:
        made.append(Stage(tmp_path, LIFL_CHECKPOINT_BEHIND=behind, **env))
        return made[-1]

    yield make_stage
    for s in made:
        s.close()


def post(job, client: str, samples: int = 1, node: str = "node-0") -> int:
    ask = ClaimRequest(job.rounds.record.round, client, node, samples, 100)
    claim, duplicate = job.claim(ask)
    assert not duplicate
    job.sealed(claim.serial, Place(node, claim.serial, 1), f"d{claim.serial}", None)()
    return claim.serial


def fill_round(stage: Stage, job, samples=(3, 5), *, mean: bool = False) -> dict[str, np.ndarray]:
    """Run one round to its end; return the floats' weighted mean and the integers' maximum."""
    version = job.rounds.version
    stage.plan(job)
    updates = {}
    for i, n in enumerate(samples):
        updates[post(job, f"c{i}", n)] = (n, update(100 * version + i))
    assignment = job.assignment
    half = len(updates) // 2
    items = list(updates.items())
    stage.agent.partial(assignment, dict(items[:half]), mean=mean)
    stage.agent.partial(assignment, dict(items[half:]))
    until(lambda: job.rounds.version == version + 1)
    total = sum(n * flat(a).astype(np.float64) for n, a in updates.values())
    steps = np.max([a["steps"] for _, a in updates.values()], axis=0)
    return {"floats": total / sum(samples), "steps": steps}


def test_version_zero_is_published_and_on_disk(stage):
    s = stage()
    s.submit()
    model = s.agent.model()
    for name, array in MODEL.items():
        np.testing.assert_array_equal(model[name], array)


def one(directory: Path, pattern: str) -> Path:
    """Return the one file of that name, which may still come; who wrote it is a part of that."""
    (found,) = until(lambda: list(directory.glob(pattern)))
    return found


@pytest.mark.parametrize("mean", [False, True])
def test_a_round_makes_the_weighted_mean_and_the_maximum(stage, tmp_path, mean):
    s = stage()
    job = s.submit()
    expected = fill_round(s, job, mean=mean)
    model = s.agent.model()
    np.testing.assert_allclose(flat(model), expected["floats"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model["steps"], expected["steps"])
    directory = tmp_path / "state" / "checkpoints" / "digits"
    file = load_file(one(directory, "v000001-*.safetensors"))
    np.testing.assert_array_equal(flat(file), flat(model))


def test_after_a_round_only_the_new_model_is_in_the_pool(stage):
    s = stage()
    job = s.submit()
    fill_round(s, job)
    until(lambda: s.agent.pool.usage().free == s.agent.pool.geometry.slots - 1)
    assert job.model.slot == s.agent.pool.find(kind=SlotKind.MODEL)[0].slot


def test_slots_that_others_used_are_mapped_in_pauses(stage):
    s = stage()
    job = s.submit()
    pool = s.agent.pool
    pool.prefault(range(pool.geometry.slots))
    fill_round(s, job)  # it looks at three of them
    until(lambda: s.agent.link.pool.unmapped() is None)


def test_a_reader_keeps_the_old_model_until_it_has_done(stage):
    s = stage()
    job = s.submit()
    old = s.agent.pool.find(kind=SlotKind.MODEL)[0]
    s.agent.pool.pin(old, 5)
    fill_round(s, job)
    assert s.agent.pool.entry(old.slot).state is SlotState.RETIRED
    s.agent.pool.unpin(old, 5)
    assert s.agent.pool.usage().sealed == 1


def test_history_counts_every_update_once(stage):
    s = stage()
    job = s.submit()
    fill_round(s, job)
    fill_round(s, job, (7, 1))
    until(lambda: job.over)
    assert job.rounds.phase is Phase.DONE
    history = s.coordinator.jobs.history("digits")
    assert [(h.round, h.version, h.accepted, h.aggregated, h.samples) for h in history] == [
        (1, 1, 2, 2, 8.0),
        (2, 2, 2, 2, 8.0),
    ]
    assert all(h.opened <= h.closed <= h.committed for h in history)


def test_only_the_last_versions_stay_on_disk(stage, tmp_path):
    s = stage(LIFL_KEEP_VERSIONS="1")
    job = s.submit(job_file(strategy={"name": "fedavgm"}))
    fill_round(s, job)
    directory = tmp_path / "state" / "checkpoints" / "digits"
    until(lambda: list(directory.glob("spare-*.part")))  # version 0 was here
    until(lambda: len(list(directory.iterdir())) == 3)
    one(directory, "v000001-*.safetensors")
    one(directory, "v000001-*.velocity.f32")


@pytest.mark.parametrize("kind", ["weights", "delta"])
@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_strategies_keep_their_state_over_a_restart(stage, name, kind):
    s = stage()
    job = s.submit(job_file(strategy={"name": name, "lr": 0.5}, update=kind))
    strategy, model, state = make(name, {"lr": 0.5}), flat(MODEL), {}
    for round_number in (1, 2):
        expected = fill_round(s, job)
        mean = expected["floats"].astype(np.float32)
        model, state = apply(strategy, model, mean, state, delta=kind == "delta")
        np.testing.assert_allclose(flat(s.agent.model()), model, rtol=1e-4, atol=1e-5)
        if round_number == 1:
            s.restart()
            job = s.job()
            assert job.rounds.version == 1


# -- hints and deaths ---------------------------------------------------------


def test_descriptors_sent_again_change_nothing(stage):
    s = stage()
    job = s.submit()
    s.plan(job)
    a, b = post(job, "c0"), post(job, "c1")
    s.agent.partial(1, {a: (1, update(0))})
    for _ in range(5):
        s.agent.sweep()
    s.agent.partial(1, {b: (1, update(1))})
    until(lambda: job.rounds.version == 1)
    assert s.coordinator.jobs.history("digits")[0].aggregated == 2


def test_partials_of_another_attempt_are_freed(stage):
    s = stage()
    job = s.submit()
    s.plan(job)
    serial = post(job, "c0")
    ref = s.agent.partial(9, {serial: (1, update(0))})
    until(lambda: s.agent.pool.entry(ref.slot).state is SlotState.FREE)
    assert job.rounds.book.accepted == 1


def test_an_overlapping_partial_is_freed_and_its_client_asked_again(stage):
    s = stage()
    job = s.submit()
    s.plan(job)
    a, b = post(job, "c0"), post(job, "c1")
    s.agent.partial(1, {a: (1, update(0))})
    until(lambda: job.rounds.book.held)
    s.agent.partial(1, {a: (1, update(0)), b: (1, update(1))})
    until(job.rounds.lost)
    assert job.rounds.lost() == ["c1"]
    assert (job.rounds.phase, job.rounds.record.attempt) == (Phase.OPEN, 1)
    until(lambda: s.agent.pool.usage().taken == 1)


def test_a_retry_frees_what_was_held(stage):
    s = stage(LIFL_ROUND_STALL="0.2")
    job = s.submit()
    s.plan(job)
    a = post(job, "c0")
    post(job, "c1")
    s.agent.partial(1, {a: (1, update(0))})
    until(lambda: job.rounds.record.attempt == 2)
    until(lambda: s.agent.pool.usage().taken == 0)
    assert job.assignment == 2


def test_a_stopped_job_frees_what_was_held_and_keeps_its_model(stage):
    s = stage()
    job = s.submit()
    s.plan(job)
    s.agent.partial(1, {post(job, "c0"): (1, update(0))})
    until(lambda: job.rounds.book.held)
    s.coordinator.jobs.stop("digits")
    until(lambda: s.agent.pool.usage().taken == 0)
    assert flat(s.agent.model())[0] == flat(MODEL)[0]


def test_leases_that_were_taken_back_are_handed_out_again(stage):
    s = stage()
    job = s.submit()
    s.plan(job)
    a, b = post(job, "c0"), post(job, "c1")
    s.agent.partial(1, {a: (1, update(0))})
    until(lambda: job.rounds.book.held)
    link = s.agent.link
    link.hang_up()
    until(lambda: s.agent.link is not None and s.agent.link is not link)
    s.agent.sweep()
    s.agent.partial(1, {b: (1, update(1))})
    until(lambda: job.rounds.version == 1)
    assert s.coordinator.jobs.history("digits")[0].aggregated == 2


def test_a_restart_in_the_middle_of_a_round_loses_nothing(stage):
    s = stage()
    job = s.submit()
    s.plan(job)
    a, b = post(job, "c0", 2), post(job, "c1", 6)
    s.agent.partial(1, {a: (2, update(0))})
    until(lambda: job.rounds.book.held)
    s.restart()
    job = s.job()
    assert job.rounds.phase is Phase.CLOSING
    s.agent.sweep()
    s.agent.partial(1, {b: (6, update(1))})
    until(lambda: job.rounds.version == 1)
    expected = (2 * flat(update(0)).astype(np.float64) + 6 * flat(update(1))) / 8
    np.testing.assert_allclose(flat(s.agent.model()), expected, rtol=1e-5, atol=1e-6)


def test_a_new_pool_gets_the_model_from_its_checkpoint(stage):
    s = stage()
    job = s.submit()
    fill_round(s, job)
    before = s.agent.model()
    s.coordinator.close()
    geometry = s.agent.pool.geometry
    s.agent.pool.close()
    s.agent.create(
        {
            "slots": geometry.slots,
            "float_bytes": geometry.float_bytes,
            "meta_bytes": geometry.meta_bytes,
        }
    )
    s.start()
    s.job()
    np.testing.assert_array_equal(flat(s.agent.model()), flat(before))


def test_a_model_that_was_left_in_the_pool_is_used_again(stage):
    s = stage()
    job = s.submit()
    before = job.model
    s.restart()
    assert s.job().model == before


def test_a_full_disk_is_waited_out(stage, monkeypatch):
    s = stage()
    job = s.submit()
    full = [True]
    real = os.fsync

    def fsync(fd: int) -> None:
        if full.pop() if full else False:
            raise OSError(28, "No space left on device")
        real(fd)

    s.plan(job)
    a, b = post(job, "c0"), post(job, "c1")
    monkeypatch.setattr("functions.coordinator.checkpoint.os.fsync", fsync)
    monkeypatch.setattr("functions.coordinator.engine.COMMIT_RETRY_SECONDS", 0.05)
    s.agent.partial(1, {a: (1, update(0)), b: (1, update(1))})
    until(lambda: job.rounds.version == 1)
    assert s.agent.pool.usage().writing == 0


def test_a_store_that_is_away_is_waited_out(stage, monkeypatch):
    s = stage()
    job = s.submit()
    s.plan(job)
    a, b = post(job, "c0"), post(job, "c1")
    away, real = [True, True], s.store.commit

    def commit(what):
        if away and away.pop():
            raise Unavailable("the store is away")
        real(what)

    monkeypatch.setattr(s.store, "commit", commit)
    monkeypatch.setattr("functions.coordinator.engine.COMMIT_RETRY_SECONDS", 0.05)
    s.agent.partial(1, {a: (1, update(0)), b: (1, update(1))})
    until(lambda: job.rounds.version == 1)
    assert [h.version for h in s.coordinator.jobs.history("digits")] == [1]


def test_a_claim_that_could_not_be_written_is_written_later(stage, monkeypatch):
    s = stage()
    job = s.submit()
    s.plan(job)
    claim, _ = job.claim(ClaimRequest(1, "c0", "node-0", 1, 100))
    away, real = [True], s.store.write

    def write(*what):
        if away and away.pop():
            raise Unavailable("the store is away")
        real(*what)

    monkeypatch.setattr(s.store, "write", write)
    place = Place("node-0", 1, 1)
    with pytest.raises(Unavailable):
        job.sealed(claim.serial, place, "d", None)()
    job.sealed(claim.serial, place, "d", None)()
    assert [c.state for c in s.store.load("digits").claims] == ["sealed"]


def test_a_model_that_diverged_fails_the_job_with_a_reason(stage):
    s = stage()
    job = s.submit()
    s.plan(job)
    a, b = post(job, "c0"), post(job, "c1")
    broken = update(0)
    broken["w"][7] = np.inf
    s.agent.partial(1, {a: (1, broken), b: (1, update(1))})
    until(lambda: job.over)
    assert (job.record.state, job.rounds.version) == ("failed", 0)
    assert "not finite" in job.record.detail
    assert flat(s.agent.model())[0] == flat(MODEL)[0]


def test_a_checkpoint_that_is_gone_fails_its_job_alone(stage, tmp_path):
    s = stage()
    job = s.submit(job_file(strategy={"name": "fedadam"}))
    fill_round(s, job)
    s.coordinator.close()
    one(tmp_path / "state" / "checkpoints" / "digits", "v000001-*.m.f32").unlink()
    s.start()
    job = s.coordinator.jobs.get("digits")
    assert job.record.state == "failed"
    assert "v000001-" in job.record.detail and ".m.f32 is missing" in job.record.detail


def test_the_thread_ends_when_an_old_jobs_domain_is_gone(stage):
    s = stage()
    s.submit()
    s.coordinator.jobs.stop("digits")
    s.agent.refuse = True
    s.agent.link.hang_up()
    until(lambda: not s.coordinator.jobs.engines["digits"].is_alive())


def test_nothing_is_left_behind(tmp_path, no_leaks):
    s = Stage(tmp_path)
    job = s.submit()
    fill_round(s, job)
    s.restart()
    s.job()
    s.close()


def test_many_rounds_leave_nothing_behind(stage):
    """Neither descriptors nor slots nor files grow with the rounds."""
    s = stage()
    job = s.submit(job_file(rounds=60, strategy={"name": "fedadam"}))
    seen = []
    for _ in range(30):
        fill_round(s, job)
        seen.append((len(os.listdir("/proc/self/fd")), s.agent.pool.usage().sealed))  # noqa: PTH208
    # the engine may have a directory open just when we look, so not every count is the same
    assert min(fds for fds, _ in seen[10:]) <= min(fds for fds, _ in seen[:10])
    assert {sealed for _, sealed in seen} == {1}


def test_a_pool_that_is_busy_at_the_seal_does_not_undo_the_version(stage, monkeypatch):
    s = stage()
    job = s.submit()
    s.plan(job)
    a, b = post(job, "c0"), post(job, "c1")
    busy, real = [True], Shelf.seal

    def seal(self, *what):
        if busy and busy.pop():
            raise PoolBusy("somebody holds the table")
        real(self, *what)

    monkeypatch.setattr(Shelf, "seal", seal)
    s.agent.partial(1, {a: (3, update(0)), b: (5, update(1))})
    until(lambda: job.rounds.version == 1 and job.model is not None)
    expected = (3 * flat(update(0)).astype(np.float64) + 5 * flat(update(1))) / 8
    np.testing.assert_allclose(flat(s.agent.model()), expected, rtol=1e-5, atol=1e-6)
    s.agent.sweep()
    until(lambda: s.agent.pool.usage().free == s.agent.pool.geometry.slots - 1)


def test_an_agent_that_fences_while_a_version_is_made_costs_nothing(stage, monkeypatch):
    s = stage()
    job = s.submit()
    s.plan(job)
    a, b = post(job, "c0"), post(job, "c1")
    link, real = s.agent.link, s.store.commit

    def commit(what):
        s.agent.recover(link.endpoint)
        real(what)

    monkeypatch.setattr(s.store, "commit", commit)
    s.agent.partial(1, {a: (3, update(0)), b: (5, update(1))})
    until(lambda: job.rounds.version == 1 and job.model is not None)
    assert s.agent.link is not link
    expected = (3 * flat(update(0)).astype(np.float64) + 5 * flat(update(1))) / 8
    np.testing.assert_allclose(flat(s.agent.model()), expected, rtol=1e-5, atol=1e-6)


def test_a_model_made_in_a_slot_that_was_taken_back_is_never_committed(stage, monkeypatch):
    s = stage()
    job = s.submit()
    s.plan(job)
    a, b = post(job, "c0"), post(job, "c1")
    link, real, once = s.agent.link, optimizer.advance, [True]

    def advance(*arguments, out, **others):
        real(*arguments, out=out, **others)
        if once and once.pop():
            s.agent.recover(link.endpoint)
            out[-1:] = 666.0

    monkeypatch.setattr(optimizer, "advance", advance)
    s.agent.partial(1, {a: (3, update(0)), b: (5, update(1))})
    until(lambda: s.agent.link is not None and s.agent.link is not link)
    assert job.rounds.version == 0
    s.agent.sweep()
    until(lambda: job.rounds.version == 1 and job.model is not None)
    expected = (3 * flat(update(0)).astype(np.float64) + 5 * flat(update(1))) / 8
    np.testing.assert_allclose(flat(s.agent.model()), expected, rtol=1e-5, atol=1e-6)
