"""A run beside an earlier one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench.compare import report
from bench.compare.report import against


def test_ratio() -> None:
    assert against.ratio([1.0, 2.0, 3.0], [4.0, 4.0, 2.0]) == (0.5, 0.25, 1.5)


def test_now_over_then(run: dict[str, Any], side: Any) -> None:
    then = copy.deepcopy(run)
    then["workloads"][0]["sides"]["lifl"] = side("lifl", [0.8, 1.0, 0.9], cpu=0.25)
    then["workloads"][0]["sides"]["vanilla"] = side("vanilla", [0.5, 0.5, 0.5], cpu=2.0)
    found = report.compare(run, then)
    rows = {(r[0], r[1]): r[2:] for r in found.rows}
    assert rows["burst-8x45mb", "The lifl side"] == ("0.222 [0.2 .. 0.5]", "2 [2 .. 2]")
    marks = dict(zip(rows, found.marks, strict=True))
    assert marks["burst-8x45mb", "The lifl side"] == "good"
    assert marks["burst-8x45mb", "The vanilla side"] == "bad"
    assert marks["burst-8x45mb", "The serverful side"] == ""
    assert ("burst-8x45mb", "flower") not in rows
    assert "different machines" not in found.note


def test_what_only_one_has_is_left_out(run: dict[str, Any]) -> None:
    then = copy.deepcopy(run)
    then["workloads"] = then["workloads"][1:]
    then["machine"]["cores"] = 64
    found = report.compare(run, then)
    assert {r[0] for r in found.rows} == {"ablation-20x45mb", "train-resnet18"}
    assert "different machines" in found.note


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no earlier run"):
        report.load(tmp_path)
    (tmp_path / "rounds.json").write_text("{}")
    with pytest.raises(ValueError, match="no run of this bench"):
        report.load(tmp_path)
    (tmp_path / "rounds.json").write_text(json.dumps({"workloads": []}))
    assert report.load(tmp_path) == {"workloads": []}
