"""`python -m bench.sim`: options, table, JSON, exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.sim import __main__ as entry
from bench.sim import options
from bench.sim.costs import Costs
from controller.plan.placement import Policy

LINES = ("--model", "10", "--line", "1", "--client-line", "0.1", "--trip", "3")
POLICIES = ("--lazy", "--placement", "worstfit", "--no-reuse", "--memory", "8", "--cores", "4")
DAY = [
    *("--clients", "400", "--rounds", "4", "--load", "diurnal"),
    *("--arrivals", "diurnal", "--day", "100"),
]


@pytest.fixture
def file(costs: Costs, tmp_path: Path) -> str:
    costs.save(tmp_path / "costs.json")
    return str(tmp_path / "costs.json")


def test_json_has_what_is_asked_for_of_each_side(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--clients", "40", "--nodes", "3", "--rounds", "2", "--costs", file, "--json"]
    assert entry.main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert [s["system"] for s in first["systems"]] == ["lifl", "serverful", "vanilla"]
    for side in first["systems"]:
        assert side["seconds"] > 0
        assert side["cpu_seconds"] > 0
        assert side["aggregators_created"] >= 0
        assert 1 <= side["nodes"] <= 3
        assert [r["updates"] for r in side["rounds"]] == [40, 40]
    entry.main(arguments)
    again = json.loads(capsys.readouterr().out)
    for told in (first, again):
        for side in told["systems"]:
            del side["simulated_in_seconds"], side["simulated_in_peak_mb"]
    assert first == again


def test_people_get_a_table(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--clients", "8", "--nodes", "1", "--systems", "lifl", "--costs", file]) == 0
    out = capsys.readouterr().out
    assert "lifl" in out
    assert "serverful" not in out
    assert "8 clients a round" in out


@pytest.mark.parametrize(
    "arguments",
    [["--nodes", "0"], ["--model", "big"], ["--placement", "luck"], ["--pause", "-1"]],
)
def test_wrong_usage_is_exit_status_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        entry.main(arguments)
    assert ended.value.code == entry.USAGE
    assert arguments[0] in capsys.readouterr().err


def test_costs_that_cannot_be_read_are_exit_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["--costs", str(tmp_path / "none.json")]) == entry.USAGE
    assert "none.json" in capsys.readouterr().err


def test_options_become_a_scenario() -> None:
    args = options.parser().parse_args([*LINES, *POLICIES])
    scenario = options.scenario(args, "lifl")
    assert scenario.nbytes == 10_000_000
    assert scenario.line == 125e6
    assert scenario.client_rate == 12.5e6
    assert scenario.trip == 3e-3
    assert scenario.memory == 8e9
    assert scenario.cores == scenario.processors == 4
    assert scenario.policies.placement is Policy.WORST_FIT
    assert not scenario.policies.eager
    assert not scenario.policies.reuse
    assert scenario.policies.hierarchy


def test_a_day_has_fewer_clients_at_night_and_rounds_differ() -> None:
    parser = options.parser()
    args = parser.parse_args(DAY)
    rounds = options.rounds(args)
    numbers = [len(r) for r in rounds]
    assert min(numbers) < max(numbers) <= 400
    assert all(r[0] >= 0 and r[-1] <= 100 and np.all(np.diff(r) >= 0) for r in rounds)
    same = parser.parse_args(["--clients", "50", "--rounds", "2", "--arrivals", "poisson"])
    first, second = options.rounds(same)
    assert len(first) == len(second) == 50
    assert not np.array_equal(first, second)
    assert np.array_equal(first, options.rounds(same)[0])
