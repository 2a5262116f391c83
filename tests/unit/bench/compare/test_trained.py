"""Records of a training: rounds to the target, and the load that sides play of it."""

from __future__ import annotations

import pytest

from bench.compare.trained import Record, Task

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
