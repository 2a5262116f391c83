"""Tables: what Markdown and HTML both say."""

from __future__ import annotations

from typing import Any

from bench.compare import summary
from bench.compare.report import tables


def test_bars_say_what_holds_and_what_does_not(run: dict[str, Any]) -> None:
    found = tables.bars(summary.build(run))
    rows = {r[0].strip("`"): r for r in found.rows}
    assert rows["round_serverful_over_lifl"][2:6] == (
        *("2.00", "[2.00 .. 3.00], n = 3", "≥ 2", "holds"),
    )
    assert rows["round_flower_over_lifl"][5] == "not measured"
    assert "scripts/peers" in rows["round_flower_over_lifl"][6]
    marks = dict(zip(rows, found.marks, strict=True))
    assert marks["round_serverful_over_lifl"] == "good"
    assert marks["round_flower_over_lifl"] == "bad"
    assert marks["tta_digits_serverful_over_lifl"] == ""


def test_a_workload_says_what_was_run(run: dict[str, Any]) -> None:
    first, second, _ = tables.workloads(run)
    assert first.note == (
        "A whole round: 8 clients, ResNet-18 (45 MB); updates arrive all at once; 3 rounds a side, "
        "round by round in turn, after 1 to warm up."
    )
    assert "one side after the other" in second.note
    lifl = first.rows[0]
    assert lifl[0] == "The lifl side"
    assert lifl[1] == "0.2 [0.2 .. 0.4]"
    assert lifl[2] == "0.0625 [0.0625 .. 0.0625]"
    assert lifl[3:] == ("500", "3", "1", "10", "3")
    assert first.rows[-1][1] == "not run: run scripts/peers flower"


def test_what_each_part_took_is_told(run: dict[str, Any]) -> None:
    assert tables.parts(run) is None
    run["parts"] = [
        {"name": "burst-8x45mb", "expected": 100.0, "seconds": 88.4, "copying": 9.4},
        {"name": "sim", "expected": 30.0, "seconds": 40.0, "copying": 6.0},
    ]
    found = tables.parts(run)
    assert found is not None
    assert found.rows == [
        ("burst-8x45mb", "100", "88.4", "9.4"),
        ("sim", "30", "40", "6"),
        ("together", "130", "128", ""),
    ]
    assert "was at rest" in found.note
    run["workloads"][0]["restless"] = 2
    found = tables.parts(run)
    assert found is not None
    assert "within seconds: 2." in found.note


def test_what_is_left_out_is_told(run: dict[str, Any]) -> None:
    run["workloads"][0]["sides"]["vanilla"]["failed"] = "OSError: x"
    found = tables.left_out(run)
    assert found is not None
    assert ("burst-8x45mb", "The vanilla side", "could not be measured", "OSError: x") in found.rows
    assert ("handoff", "", "not run", "RuntimeError: no redis-server") in found.rows
    run["workloads"], run["lost"] = [], {}
    assert tables.left_out(run) is None


def test_the_audit_tells_the_counted_from_the_read(run: dict[str, Any]) -> None:
    assert tables.audit(run) is None
    rows = [
        {"what": "system calls", "per_update": 30.0, "per_hop": 20.0, "by_hand_per_hop": None},
        {"what": "serialisations", "per_update": None, "per_hop": None, "by_hand_per_hop": 1.0},
        {"what": "page faults", "per_update": None, "per_hop": None, "by_hand_per_hop": None},
    ]
    run["audit"] = {
        "lifl": {"title": "LIFL", "workload": "burst", "rounds": 2, "rows": rows},
        "flower": {"title": "flower", "missing": "not run: x"},
    }
    found = tables.audit(run)
    assert found is not None
    assert found.columns == ("", "LIFL")
    assert [list(r) for r in found.rows] == [
        ["system calls", "30 an update, 20 a hop"],
        ["serialisations", "*1 a hop*"],
        ["page faults", "–"],
    ]


def test_references_and_simulation(run: dict[str, Any]) -> None:
    assert tables.references(run) is None
    assert tables.simulated(run) is None
    run["workloads"][0]["sides"]["vanilla"]["references"] = [
        {"path": "a hop", "measured": 70.0, "published": 100.0, "holds": False}
    ]
    found = tables.references(run)
    assert found is not None
    assert found.rows == [("The vanilla side", "a hop", "70", "100", "0.70")]
    assert list(found.marks) == ["bad"]
    run["sim"] = {
        "rows": [{"workload": "w", "side": "lifl", "measured": 1.0, "simulated": 1.1, "error": 0.1}]
    }
    shown = tables.simulated(run)
    assert shown is not None
    assert shown.rows == [("w", "lifl", "1", "1.1", "10 %")]


def test_stand_ins_are_told_once_a_side(run: dict[str, Any]) -> None:
    found = tables.stand_ins(run)
    assert [r[0] for r in found.rows] == [
        *("The lifl side", "The lifl-socket side", "The serverful side", "The vanilla side")
    ]
    assert found.rows[0][1:] == ("loopback in place of a network", "lifl 1.2", "by control groups")
