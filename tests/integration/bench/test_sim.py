"""The simulation beside small rounds that are really played, with costs measured right before."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.compare import arrivals, serverful, steps
from bench.compare.api import Load
from bench.compare.groups import open_group
from bench.compare.outcome import Played, Side
from bench.compare.runner import Runner
from bench.compare.workloads import Workload
from bench.sim import validate
from bench.sim.costs import Aggregator, Client, Costs, Hop
from bench.sim.effort import Effort
from bench.sim.hop_costs import stream_costs
from bench.sim.platform_costs import platform_costs

SIZES = (2_000_000, 20_000_000)
MODEL = "20000kb"
EFFORT = Effort(rounds=3, nodes=False)
FACTOR = 3.0
"""Others may keep the machine busy while tests run: what is tested is not how exact it is."""


class Silent:
    """A watcher that only remembers what was lost."""

    def __init__(self) -> None:
        self.lost_sides: list[str] = []

    def begin(self, workload: Workload, sides: Sequence[str], plays: int) -> None:
        """Hear that it begins."""

    def played(self, side: Side, played: Played) -> None:
        """Hear of a round."""

    def lost(self, side: str, why: str) -> None:
        """Hear that a side is lost."""
        self.lost_sides.append(f"{side}: {why}")


@pytest.fixture(scope="module")
def costs() -> Costs:
    parts, client, sum_per_byte = platform_costs(SIZES, EFFORT)
    return Costs(
        client=Client(client),
        aggregator=Aggregator(start=0.3, start_wait=0.1, sum_per_byte=sum_per_byte),
        lifl=parts,
        serverful=stream_costs(SIZES, EFFORT),
        vanilla=Hop(fixed=0.0, per_byte=0.0, send_per_byte=0.0, serial=0.0),
    )


@pytest.mark.timeout(300)
def test_costs_are_those_of_a_machine(costs: Costs) -> None:
    assert 1e-11 < costs.client.per_byte < 1e-8
    assert 1e-11 < costs.aggregator.sum_per_byte < 1e-8
    assert 1e-11 < costs.lifl.ingest_per_byte < 1e-8
    assert 1e-11 < costs.serverful.per_byte < 1e-7
    assert costs.lifl.claim > 0


@pytest.mark.timeout(300)
def test_real_rounds_take_about_what_simulated_ones_do(costs: Costs, tmp_path: Path) -> None:
    watcher = Silent()
    sides = {"lifl": steps.make, "serverful": serverful.make}
    runner = Runner(tmp_path, sides, open_group, watcher)
    small = Workload(
        Load("burst-4", MODEL, 4, arrivals.burst(4)),
        tuple(sides),
        "all at once",
        "a test",
        rounds=3,
    )
    larger = replace(small, load=Load("burst-7", MODEL, 7, arrivals.burst(7)))
    for workload in (small, larger):
        runner.run(workload)
    assert not watcher.lost_sides
    found = validate.run(runner.to_json(), costs)
    assert found["fitted_on"] == ["burst-4"]
    rows = {(r["workload"], r["side"]): r for r in found["rows"]}
    assert len(rows) == 4
    assert [r["fitted"] for r in rows.values()].count(True) == 1
    for row in rows.values():
        assert 1 / FACTOR < row["simulated"] / row["measured"] < FACTOR, row
    assert found["sim_error"] == statistics.median(found["samples"])
