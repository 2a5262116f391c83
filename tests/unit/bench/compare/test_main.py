"""The command: what it takes, what it runs, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.compare import __main__ as command
from bench.compare import trained, training, workloads
from bench.compare.auditing import hops
from bench.compare.trained import Record, Task


class NothingPlayed:
    """Stands for a runner: keeps which workloads it was given."""

    def __init__(self, out: Path, *_: Any, about: dict[str, Any]) -> None:
        self.others: dict[str, Any] = {}
        self.outcomes: list[Any] = []
        self.given: list[workloads.Workload] = []
        self.about = about
        type(self).last = self

    last: NothingPlayed
    fails = False

    def run(self, workload: workloads.Workload, document: bytes | None = None) -> None:
        self.given.append(workload)

    def write(self) -> None:
        """Nothing to keep."""

    def failed(self) -> bool:
        return self.fails

    def to_json(self) -> dict[str, Any]:
        return {**self.about, "seconds": 1.0, "workloads": [], **self.others}


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> type[NothingPlayed]:
    monkeypatch.setattr(command, "Runner", NothingPlayed)
    monkeypatch.setattr(NothingPlayed, "fails", False)
    return NothingPlayed


def _names(runner: type[NothingPlayed]) -> list[str]:
    return [w.name for w in runner.last.given]


def test_what_is_asked_for_is_run(runner: type[NothingPlayed], tmp_path: Path) -> None:
    arguments = ["--quick", "--workloads", "burst-8", "abl", "--systems", "lifl", "vanilla"]
    assert command.main([*arguments, "--out", str(tmp_path)]) == 0
    assert _names(runner) == ["burst-8x45mb", "ablation-20x45mb"]
    assert [w.sides for w in runner.last.given] == [
        ("lifl", "vanilla"),
        ("step-0-base", "step-4-eager"),
    ]
    assert runner.last.others["lost"]["handoff"] == "it was not asked for"
    assert runner.last.others["lost"]["train-resnet18"] == "it is part of the full run"
    assert (tmp_path / "index.html").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["round_vanilla_over_lifl"]["passed"] is None


def test_the_full_run_has_all_workloads(runner: type[NothingPlayed], tmp_path: Path) -> None:
    arguments = ["--workloads", "burst", "poisson", "diurnal", "ablation"]
    command.main([*arguments, "--out", str(tmp_path)])
    assert _names(runner) == [w.name for w in workloads.full()]
    parts = runner.last.others["parts"]
    assert [p["name"] for p in parts] == _names(runner)
    assert all(p["expected"] > 0 and p["seconds"] >= 0 and p["copying"] > 0 for p in parts)


def test_when_time_is_over_it_is_told_what_was_not_run(
    runner: type[NothingPlayed], tmp_path: Path
) -> None:
    arguments = ["--quick", "--workloads", "burst", "ablation", "--max-seconds", "110"]
    assert command.main([*arguments, "--out", str(tmp_path)]) == 0
    assert _names(runner) == ["burst-8x45mb", "ablation-20x45mb"]
    arguments[-1] = "60"
    assert command.main([*arguments, "--out", str(tmp_path)]) == 0
    assert _names(runner) == ["ablation-20x45mb"]
    assert runner.last.others["lost"]["burst-8x45mb"].startswith("time was over: 0 of 60 s")
    assert "time was over" in (tmp_path / "report.md").read_text()


def test_a_part_that_fails_costs_the_others_nothing(
    runner: type[NothingPlayed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no torch")

    monkeypatch.setattr(training, "record", broken)
    arguments = ["--quick", "--workloads", "train-digits", "audit", "--out", str(tmp_path)]
    assert command.main(arguments) == 2
    lost = runner.last.others["lost"]
    assert lost["train-digits"] == "RuntimeError: no torch"
    assert "which was not run" in lost["audit"]


def test_a_side_that_failed_is_told_by_the_status(
    runner: type[NothingPlayed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "fails", True)
    assert command.main(["--quick", "--workloads", "burst-8", "--out", str(tmp_path)]) == 2


def test_a_missed_bar_is_told_by_the_status(
    runner: type[NothingPlayed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: dict[str, Any],
) -> None:
    run["workloads"][0]["sides"]["vanilla"]["rounds"] = run["workloads"][0]["sides"]["lifl"][
        "rounds"
    ]
    monkeypatch.setattr(runner, "to_json", lambda self: run)
    assert command.main(["--quick", "--workloads", "burst-8", "--out", str(tmp_path)]) == 1


def test_an_earlier_run_must_be_there(runner: type[NothingPlayed], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no earlier run"):
        command.main(["--against", str(tmp_path), "--out", str(tmp_path)])


def test_training_that_misses_its_target_is_told(
    runner: type[NothingPlayed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("digits", "a trial", "digits", 2, 1, 1.0, 0.9)
    row = {"clients": 2, "accuracy": 0.5, "loss": 1.0, "seconds": [0.1, 0.2]}
    monkeypatch.setattr(training, "record", lambda *_, **__: Record(task, [row], ""))
    monkeypatch.setattr(trained, "true_updates", lambda path: ([b""], [1], b""))
    assert command.main(["--quick", "--workloads", "train", "--out", str(tmp_path)]) == 2
    assert "90% was not reached" in runner.last.others["lost"]["train-digits"]


def test_hops_of_a_round() -> None:
    assert [hops(s, 8) for s in ("flower", "lifl", "serverful-flat")] == [8, 8, 8]
    assert hops("serverful", 8) == 12
    assert hops("serverful", 2) == 2
    assert hops("vanilla", 3) == 5
