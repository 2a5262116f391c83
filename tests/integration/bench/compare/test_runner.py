"""Two tiny sides through the runner to a report."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.compare import arrivals, lifl, report
from bench.compare.api import Group, Load
from bench.compare.groups import open_group
from bench.compare.machine import machine
from bench.compare.outcome import Played, Side
from bench.compare.runner import Runner
from bench.compare.workloads import Workload


class Quiet:
    """A watcher that counts."""

    def __init__(self) -> None:
        self.told = 0

    def begin(self, workload: Workload, sides: Sequence[str], plays: int) -> None:
        """Nothing to show."""

    def played(self, side: Side, played: Played) -> None:
        """Count it."""
        self.told += 1

    def lost(self, side: str, why: str) -> None:
        """No side may be lost here."""
        raise AssertionError(f"{side}: {why}")


def _alive() -> set[str | int]:
    """Return this process's threads and children."""
    threads = {t.name for t in threading.enumerate()}
    return threads | {p.pid for p in psutil.Process().children()}


def _lazy(load: Load, group: Group, document: bytes) -> lifl.Lifl:
    settings = {"LIFL_EAGER": "off"}
    return lifl.Lifl(
        load,
        group,
        document,
        name="serverful",
        title="LIFL, lazy",
        dataplane="socket",
        switches=settings,
    )


def _eager(load: Load, group: Group, document: bytes) -> lifl.Lifl:
    return lifl.Lifl(load, group, document, dataplane="socket")


def test_two_sides_to_a_report(tmp_path: Path) -> None:
    load = Load("burst-8x45mb", "1000kb", 3, arrivals.burst(3))
    workload = Workload(load, ("lifl", "serverful"), "all at once", "a trial", rounds=2)
    watcher = Quiet()
    made = Runner(
        tmp_path,
        {"lifl": _eager, "serverful": _lazy},
        open_group,
        watcher,
        about={"machine": machine(), "quick": True},
    )
    before = _alive()
    made.run(workload)
    assert _alive() == before
    assert watcher.told == 6
    assert not made.failed()

    summary = report.write(made.to_json(), tmp_path)
    ratio = summary["round_serverful_over_lifl"]
    assert ratio["n"] == 2
    assert ratio["median"] > 0
    kept = json.loads((tmp_path / "rounds.json").read_text())
    for side in kept["workloads"][0]["sides"].values():
        assert [r["index"] for r in side["rounds"]] == [-1, 0, 1]
        for played in side["rounds"]:
            assert played["wall"] > 0
            assert played["cpu"] > 0
            assert played["peak"] > 3_000_000  # three updates at least
            assert len(played["memory"]) >= 2
    page = (tmp_path / "index.html").read_text()
    assert "LIFL, lazy" in page
    assert "<svg" in page
