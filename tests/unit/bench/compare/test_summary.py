"""The bars: ratios of pairs, what is missing, void, or below."""

from __future__ import annotations

from typing import Any

import pytest

from bench.compare import summary

ISSUE = {
    "handoff_vanilla_over_lifl": "≥ 12",
    "handoff_cpu_vanilla_over_lifl": "≥ 12",
    "handoff_direct_over_lifl": "≥ 5",
    "round_flower_over_lifl": "≥ 30",
    "round_nvflare_over_lifl": "≥ 6",
    "round_cpu_nvflare_over_lifl": "≥ 4",
    "round_serverful_over_lifl": "≥ 2",
    "round_vanilla_over_lifl": "≥ 4",
    "tta_serverful_over_lifl": "≥ 1.6",
    "tta_vanilla_over_lifl": "≥ 2.7",
    "cpu_serverful_over_lifl": "≥ 1.8",
    "cpu_vanilla_over_lifl": "≥ 5.7",
    "sim_error": "≤ 0.15",
}


def test_keys_and_bars_are_the_issues(run: dict[str, Any]) -> None:
    found = summary.build(run)
    assert {k: v["bar"] for k, v in found.items() if v["bar"]} == ISSUE
    assert all({"median", "min", "max", "n", "passed", "void"} <= f.keys() for f in found.values())


def _whole(run: dict[str, Any], side: Any) -> None:
    """Make a run in which everything with a bar was measured."""
    played = run["workloads"][0]["sides"]
    played |= {name: side(name, [10.0, 12.0, 11.0], cpu=5.0) for name in ("flower", "nvflare")}
    run["workloads"][2]["sides"]["vanilla"] = side("vanilla", [3.0, 4.0], cpu=4.0)
    keys = [k for k in ISSUE if k.startswith("handoff")]
    run["handoff"] = {key: {"samples": [13.0, 14.0, 15.0], "void": ""} for key in keys}
    run["sim"] = {"samples": [0.1, 0.2, 0.12]}


def test_every_bar_has_a_median_its_spread_and_a_verdict(run: dict[str, Any], side: Any) -> None:
    _whole(run, side)
    found = summary.build(run)
    for key, bar in ISSUE.items():
        figure = found[key]
        assert figure["bar"] == bar
        assert figure["min"] <= figure["median"] <= figure["max"]
        assert figure["n"] >= 2
        assert figure["passed"] is not None
        assert figure["void"] is False
        assert isinstance(figure["reason"], str)


def test_the_hand_off_with_two_passes_is_told_and_not_judged(run: dict[str, Any]) -> None:
    key = "handoff_cpu_vanilla_over_lifl_two_passes"
    run |= {"lost": {}}
    run["handoff"] = {key: {"samples": [9.0, 11.0, 10.0], "void": "", "lifl": 0.09}}
    found = summary.build(run)
    assert (found[key]["median"], found[key]["bar"], found[key]["lifl"]) == (10.0, None, 0.09)
    assert "its producer adding the last input itself" in found[key]["what"]
    missing = found["handoff_direct_over_lifl_two_passes"]
    assert (missing["n"], missing["bar"]) == (0, None)
    assert missing["reason"] == "the hand-off was not run"


def test_every_bar_that_is_not_measured_has_a_reason(run: dict[str, Any]) -> None:
    run |= {"workloads": [], "trainings": {}, "lost": {}}
    found = summary.build(run)
    for key in ISSUE:
        assert found[key]["median"] is None
        assert found[key]["passed"] is None
        assert found[key]["reason"]


def test_every_ratio_can_be_void(run: dict[str, Any], side: Any) -> None:
    _whole(run, side)
    reference = {"path": "a hop", "measured": 70.0, "published": 100.0, "holds": False}
    for name in ("serverful", "vanilla", "flower", "nvflare"):
        run["workloads"][0]["sides"][name]["references"] = [reference]
    for key in ISSUE:
        if key.startswith("handoff"):
            run["handoff"][key]["void"] = "the way by value reached 70 MB/s"
    found = summary.build(run)
    for key in ISSUE.keys() - {"sim_error"}:
        assert found[key]["void"] is True
        assert found[key]["passed"] is None
        assert "70 MB/s" in found[key]["reason"]


def test_a_ratio_is_of_pairs_of_rounds(run: dict[str, Any]) -> None:
    found = summary.build(run)["round_serverful_over_lifl"]
    assert found["median"] == pytest.approx(2.0)
    assert found["min"] == pytest.approx(2.0)
    assert found["max"] == pytest.approx(3.0)
    assert found["n"] == 3  # warm-ups left out
    assert found["passed"] is True
    assert found["serverful"] == pytest.approx(0.6)
    assert summary.build(run)["round_vanilla_over_lifl"]["passed"] is True


def test_a_ratio_below_its_bar(run: dict[str, Any], side: Any) -> None:
    run["workloads"][0]["sides"]["vanilla"] = side("vanilla", [0.4, 0.4, 0.4])
    found = summary.build(run)["round_vanilla_over_lifl"]
    assert found["passed"] is False


def test_what_is_missing_says_why(run: dict[str, Any]) -> None:
    found = summary.build(run)
    flower = found["round_flower_over_lifl"]
    assert flower["median"] is None
    assert flower["passed"] is None
    assert flower["reason"] == "flower was not run: run scripts/peers flower"
    assert found["round_nvflare_over_lifl"]["reason"] == "nvflare was not asked for"
    assert found["handoff_vanilla_over_lifl"]["reason"] == "RuntimeError: no redis-server"
    assert "train-digits was not run" in found["tta_digits_vanilla_over_lifl"]["reason"]


def test_a_side_that_failed_has_no_ratio(run: dict[str, Any]) -> None:
    run["workloads"][0]["sides"]["lifl"]["failed"] = "RuntimeError: x"
    found = summary.build(run)["round_vanilla_over_lifl"]
    assert found["median"] is None
    assert found["reason"] == "lifl could not be measured: RuntimeError: x"


def test_a_ratio_over_a_slow_baseline_is_void(run: dict[str, Any]) -> None:
    reference = {"path": "a hop", "measured": 70.0, "published": 100.0, "holds": False}
    run["workloads"][0]["sides"]["vanilla"]["references"] = [reference]
    found = summary.build(run)["round_vanilla_over_lifl"]
    assert found["void"] is True
    assert found["passed"] is None
    assert "70 MB/s on a hop, of 100" in found["reason"]
    assert found["median"] is not None
    assert summary.build(run)["round_serverful_over_lifl"]["void"] is False


def test_what_was_found_of_a_side_elsewhere_in_the_run_counts(run: dict[str, Any]) -> None:
    reference = {"path": "a hop", "measured": 70.0, "published": 100.0, "holds": False}
    run["workloads"][0]["sides"]["serverful"]["references"] = [reference]
    assert summary.build(run)["tta_serverful_over_lifl"]["void"] is True


def test_time_to_accuracy_is_of_sums(run: dict[str, Any]) -> None:
    found = summary.build(run)["tta_serverful_over_lifl"]
    assert found["median"] == pytest.approx(3.5 / 2.0)
    assert (found["min"], found["max"]) == (pytest.approx(1.5), pytest.approx(2.0))
    assert found["passed"] is True
    # the slowest of two clients after 0.2 s, of eight after 0.8
    assert "2.0 s, 1.0 s are until" in found["reason"]
    assert summary.build(run)["cpu_serverful_over_lifl"]["median"] == pytest.approx(2.0)


def test_a_peers_own_count_of_cpu_is_taken(run: dict[str, Any]) -> None:
    played = run["workloads"][0]["sides"]["vanilla"]["rounds"][1]
    assert summary.cpu(played) == 2.0
    played["marks"]["cpu"] = 1.5
    assert summary.cpu(played) == 1.5


def test_given_figures_are_taken(run: dict[str, Any]) -> None:
    run["handoff"] = {"handoff_direct_over_lifl": {"samples": [5.0, 6.0, 7.0], "void": ""}}
    run["sim"] = {"samples": [0.1, 0.3, 0.2]}
    found = summary.build(run)
    assert found["handoff_direct_over_lifl"]["median"] == 6.0
    assert found["handoff_direct_over_lifl"]["passed"] is True
    assert found["handoff_vanilla_over_lifl"]["median"] is None
    assert found["sim_error"]["median"] == 0.2
    assert found["sim_error"]["passed"] is False


def test_handoffs_are_pairs_and_void_over_a_slow_path(run: dict[str, Any]) -> None:
    references = [
        {"path": "b", "measured": 100.0, "published": 100.0, "holds": True},
        {"path": "c", "measured": 50.0, "published": 100.0, "holds": False},
    ]
    run["handoff"] = summary.handoffs(
        {
            "handoff_vanilla_over_lifl": ([13.0, 26.0, 15.0], [1.0, 2.0, 1.0], "c"),
            "handoff_direct_over_lifl": ([4.0, 4.0, 6.0], [1.0, 1.0, 1.0], "b"),
        },
        references,
        counted="by control groups",
    )
    found = summary.build(run)
    assert found["handoff_vanilla_over_lifl"]["median"] == 13.0
    assert found["handoff_vanilla_over_lifl"]["void"] is True
    assert found["handoff_direct_over_lifl"]["median"] == 4.0
    assert found["handoff_direct_over_lifl"]["passed"] is False
