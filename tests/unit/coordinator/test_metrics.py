"""What Prometheus is told of jobs: how many in which state, and how long a phase has lasted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from functions.coordinator import metrics
from functions.coordinator.metrics import Metrics
from functions.coordinator.records import Phase

from .kit import Stage, job_file, until


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def phases(stage: Stage) -> dict[str, float]:
    """Return the seconds by phase of the one job."""
    found = Metrics(stage.coordinator).registry.collect()
    (family,) = (f for f in found if f.name == "lifl_job_phase_seconds")
    return {s.labels["phase"]: s.value for s in family.samples}


def test_jobs_are_counted_by_state(stage: Stage) -> None:
    registry = Metrics(stage.coordinator).registry

    def count(state: str) -> float | None:
        return registry.get_sample_value("lifl_jobs", {"state": state})

    assert [count(s) for s in ("submitted", "running", "failed")] == [0, 0, 0]
    stage.coordinator.jobs.submit(job_file())
    assert (count("submitted"), count("running")) == (1, 0)
    assert count("deleted") is None


def test_a_phase_lasts_from_when_it_began(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    job = stage.submit()
    began = job.rounds.record.since
    monkeypatch.setattr(metrics.time, "time", lambda: began + 30)
    assert phases(stage) == {"planning": pytest.approx(30)}

    job.learn(["c0", "c1", "c2", "c3"])
    until(lambda: job.rounds.record.goal)
    stage.plan(job)
    opened = job.rounds.record.opened
    monkeypatch.setattr(metrics.time, "time", lambda: opened + 7)
    assert phases(stage) == {"open": pytest.approx(7)}

    monkeypatch.setattr(metrics.time, "time", lambda: opened - 7)  # a clock was set back
    assert phases(stage) == {"open": 0}

    job.end(Phase.STOPPED)
    assert phases(stage) == {}
