"""Training in processes: to the target, with the record and the mean of true updates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.compare import models, trained, training
from bench.compare.models import Arrays
from bench.compare.trained import Task
from bench.compare.training import Learner

TASK = Task("trial", "a trial", "digits", clients=4, rounds=6, days=1.0, target=0.9)


def _learner() -> Learner:
    """Each client pulls the one weight towards 1; accuracy is the weight."""

    def train(arrays: Arrays, client: int, number: int) -> Arrays:
        return {"w": (arrays["w"] + np.float32(1.0)) / 2}

    return Learner(
        initial=lambda: {"w": np.zeros(3, np.float32)},
        train=train,
        samples=lambda client: 10 - client,
        evaluate=lambda arrays: (float(arrays["w"][0]), 0.0),
    )


@pytest.mark.usefixtures("no_leaks")
def test_processes_train_to_the_target(tmp_path: Path) -> None:
    found = training.train(TASK, _learner(), tmp_path, "made up", workers=2)
    assert [row["accuracy"] for row in found.rounds] == [0.5, 0.75, 0.875, 0.9375]
    assert found.reached == 4
    assert [len(row["seconds"]) for row in found.rounds] == [r["clients"] for r in found.rounds]
    assert trained.read(tmp_path) == found
    documents, samples, mean = trained.true_updates(tmp_path)
    assert len(documents) == found.rounds[-1]["clients"]
    assert samples == [7, 8, 9, 10][: len(documents)]
    expected = models.average([models.arrays_of(d) for d in documents], samples)
    assert models.same(mean, models.document_of(expected)) == 0


def test_a_training_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="training digits failed"):
        training.record("digits", tmp_path)
