"""What a run should take, that both kinds fit, and that nothing is begun when time is over."""

from __future__ import annotations

import pytest

from bench.compare import budget, workloads
from bench.compare.api import Load
from bench.compare.budget import PARTS, REFERENCES, Budget
from bench.compare.workloads import Workload

AVAILABLE = 22 * 10**9
"""Bytes of memory of a machine of 24 GB that does nothing else."""


def _together(made: list[Workload], column: int) -> float:
    played = sum(budget.expected(w, AVAILABLE) for w in made)
    return REFERENCES + played + sum(seconds[column] for seconds in PARTS.values())


def test_the_quick_run_should_take_less_than_four_minutes() -> None:
    assert _together(workloads.quick(), 0) < 240


def test_the_full_run_should_take_less_than_47_minutes() -> None:
    assert _together(workloads.full(), 1) < 47 * 60


def test_every_round_and_start_is_expected() -> None:
    load = Load("x", "45mb", 2, (0.0, 0.0))
    workload = Workload(load, ("vanilla", "lifl"), "", "", rounds=3, few={"vanilla": 1}, warm=2)
    fixed, per_mb = budget.PLAY["vanilla"]
    vanilla = budget.UP["vanilla"] + (1 + 2) * (fixed + per_mb * 89.6)
    fixed, per_mb = budget.PLAY["lifl"]
    lifl = budget.UP["lifl"] + (3 + 2) * (fixed + per_mb * 89.6)
    assert budget.expected(workload, AVAILABLE) == pytest.approx(vanilla + lifl)


def test_what_does_not_fit_into_memory_takes_no_time() -> None:
    load = Load("x", "233mb", 100, (0.0,) * 100)
    assert budget.expected(Workload(load, ("vanilla",), "", ""), AVAILABLE) == 0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_begun_that_would_end_too_late() -> None:
    clock = Clock()
    made = Budget(60.0, clock)
    assert made.refusal(60.0) == ""
    clock.now += 30.0
    assert made.refusal(30.0) == ""
    assert made.refusal(31.0).startswith("time was over: 30 of 60 s had passed")


def test_a_slow_machine_is_expected_to_stay_slow() -> None:
    clock = Clock()
    made = Budget(60.0, clock)
    clock.now += 20.0
    made.took("burst", 10.0, 20.0, 9.42)
    assert made.parts == [{"name": "burst", "expected": 10.0, "seconds": 20.0, "copying": 9.4}]
    assert made.refusal(20.0) == ""
    assert "take 42 s" in made.refusal(21.0)


def test_without_a_limit_all_is_begun() -> None:
    assert Budget(None).refusal(1e9) == ""
