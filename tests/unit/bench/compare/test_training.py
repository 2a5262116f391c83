"""Records of a training: rounds to the target, arrivals, the mean of true updates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.compare import training
from bench.compare.training import Arrays, Learner, Record, Task

TASK = Task("trial", "a trial", "digits", clients=4, rounds=6, days=1.0, target=0.9)


def _row(clients: int, accuracy: float, seconds: list[float]) -> dict[str, object]:
    return {"clients": clients, "accuracy": accuracy, "loss": 1.0, "seconds": seconds}


def _record() -> Record:
    rounds = [
        _row(1, 0.2, [0.4]),
        _row(3, 0.6, [0.2, 0.5, 0.9]),
        _row(2, 0.95, [0.3, 0.7]),
        _row(3, 0.96, [0.3, 0.6, 0.8]),
    ]
    return Record(TASK, rounds, "made up")


def test_rounds_to_the_target() -> None:
    assert _record().reached == 3
    assert Record(TASK, _record().rounds[:2], "").reached is None


def test_sides_play_the_rounds_up_to_the_target_at_the_clients_own_times() -> None:
    load = _record().load()
    assert load.sizes == (1, 3, 2)
    assert load.clients == 3
    assert load.arrivals == pytest.approx((0.3, 0.6, 0.85))
    assert _record().workload(("lifl",), warm=0).warm == 0
    workload = _record().workload(("lifl",))
    assert workload.rounds == 3
    assert workload.name == "train-trial"


def test_documents_and_back() -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(1, np.float32)}
    found = training.arrays_of(training.document_of(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)


def test_average_is_weighted() -> None:
    updates: list[Arrays] = [{"a": np.full(2, v, np.float32)} for v in (1.0, 4.0)]
    assert training.average(updates, [1, 3])["a"].tolist() == [3.25, 3.25]


def test_same_tells_how_far_off_a_model_is() -> None:
    one = {"a": np.array([1.0, -2.0], np.float32)}
    other = {"a": np.array([1.0, -1.5], np.float32)}
    document = training.document_of(one)
    assert training.same(document, document) == 0
    assert training.same(training.document_of(other), document) == pytest.approx(0.25)
    with pytest.raises(RuntimeError, match="other tensors"):
        training.same(training.document_of({"b": one["a"]}), document)


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
    assert training.read(tmp_path) == found
    documents, samples, mean = training.true_updates(tmp_path)
    assert len(documents) == found.rounds[-1]["clients"]
    assert samples == [7, 8, 9, 10][: len(documents)]
    expected = training.average([training.arrays_of(d) for d in documents], samples)
    assert training.same(mean, training.document_of(expected)) == 0


def test_a_training_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="training digits failed"):
        training.record("digits", tmp_path)
