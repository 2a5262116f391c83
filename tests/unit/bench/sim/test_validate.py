"""The fit finds what rounds were made of, and the error is that of rounds it has not seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.compare import shapes
from bench.sim import fit, validate
from bench.sim.costs import Costs
from bench.sizes import BYTES
from lifl.errors import ConfigError
from tests.unit.bench.sim import kit


@pytest.fixture(scope="module")
def blank(costs: Costs) -> Costs:
    """Costs in which what a hop takes is not known."""
    return costs.with_hops(
        serverful=replace(costs.serverful, per_byte=0.0, serial=0.0),
        vanilla=replace(costs.vanilla, per_byte=0.0, serial=1.0),
    )


def test_rounds_made_by_known_costs_give_them_back(costs: Costs, blank: Costs) -> None:
    found = fit.fitted(blank, fit.cases(kit.run(costs)))
    assert found.workloads == ("burst-8x45mb",)
    for side in ("serverful", "vanilla"):
        true, got = getattr(costs, side), getattr(found.costs, side)
        assert got.per_byte == pytest.approx(true.per_byte, rel=0.02)
        assert got.serial == pytest.approx(true.serial, abs=0.06)
    assert found.costs.lifl == costs.lifl


def test_the_error_of_true_rounds_is_small_and_fitted_ones_do_not_count(
    costs: Costs, blank: Costs
) -> None:
    found = validate.run(kit.run(costs), blank)
    assert found["sim_error"] <= 0.02
    fitted = {(r["workload"], r["side"]) for r in found["rows"] if r["fitted"]}
    assert fitted == {("burst-8x45mb", "serverful"), ("burst-8x45mb", "vanilla")}
    assert len(found["rows"]) == 9
    assert len(found["samples"]) == 7
    assert set(found["by_side"]) == {"lifl", "serverful", "vanilla"}


def test_rounds_that_took_longer_than_simulated_are_an_error(costs: Costs) -> None:
    found = validate.run(kit.run(costs, pace=1.5), costs)
    assert found["by_side"]["lifl"] == pytest.approx(1 / 3, rel=0.01)
    assert found["sim_error"] > 0.1


def test_rounds_of_different_sizes_are_cases_of_their_own(costs: Costs) -> None:
    run = kit.run(costs)
    side = run["workloads"][1]["sides"]["serverful"]
    side["rounds"] += [dict(r, updates=5, wall=0.1) for r in side["rounds"]]
    found = [c for c in fit.cases(run) if c.workload == "burst-20x45mb" and c.side == "serverful"]
    assert [(c.clients, len(c.arrivals), c.burst) for c in found] == [
        (5, 5, False),
        (20, 20, False),
    ]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("workloads",), "the run: 'workloads' is missing"),
        (("workloads", 0, "name"), "workload 0: 'name' is missing"),
        (("workloads", 0, "arrivals"), "burst-8x45mb: 'arrivals' is missing"),
        (("workloads", 0, "sides", "lifl", "rounds", 1, "wall"), "burst-8x45mb, lifl: 'wall'"),
        (("workloads", 0, "sides", "lifl", "rounds", 1, "updates"), "lifl: 'updates' is missing"),
    ],
)
def test_what_is_missing_is_named(costs: Costs, path: tuple[str | int, ...], said: str) -> None:
    run = json.loads(json.dumps(kit.run(costs)))
    inner = run
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(ConfigError, match=said):
        validate.run(run, costs)


def test_sides_that_did_not_play_are_left_out_and_none_is_no_result(costs: Costs) -> None:
    run = kit.run(costs)
    for workload in run["workloads"]:
        for side in ("lifl", "serverful", "vanilla"):
            workload["sides"][side] = {"failed": "it broke", "rounds": []}
    with pytest.raises(ConfigError, match="no round was played"):
        validate.run(run, costs)
    run["workloads"][0]["model"] = "huge"
    with pytest.raises(ConfigError, match="'huge'"):
        validate.run(run, costs)


def test_a_step_of_the_ablation_is_simulated_with_its_switches(costs: Costs) -> None:
    base, whole = (
        fit.Case("ablation", f"step-{i}-{name}", 45_000_000, 20, (0.0,) * 20, 1.0, 1.0, 0.0, True)
        for i, name in ((0, "base"), (4, "eager"))
    )
    assert not fit.as_scenario(base).policies.hierarchy
    assert fit.as_scenario(whole).policies.hierarchy
    assert fit.time_of(base, costs) > fit.time_of(whole, costs)
    assert {r.nodes for r in fit.results(base, costs)} == {5}
    created = [[r.created for r in fit.results(c, costs)] for c in (base, whole)]
    assert max(created[1]) < min(created[0])  # a load that was seen may open a node anew


def test_the_command_prints_rows_or_what_is_wrong(
    costs: Costs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs.save(tmp_path / "costs.json")
    path = tmp_path / "rounds.json"
    path.write_text(json.dumps(kit.run(costs)))
    assert validate.main([str(path), "--costs", str(tmp_path / "costs.json")]) == 0
    out = capsys.readouterr().out
    assert "burst-20x45mb" in out
    assert "sim_error 0.0" in out
    assert validate.main([str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err


def test_how_large_models_are_is_known_of_all_that_are_played() -> None:
    found = {model: fit._nbytes(model, "here") for model in ("digits", "45mb", "300kb")}
    assert found["digits"] == shapes.schema("digits").document_bytes
    assert found["45mb"] == BYTES["45mb"]
    assert found["300kb"] == 300_000
    with pytest.raises(ConfigError, match="here: how large a model 'bert' is"):
        fit._nbytes("bert", "here")
