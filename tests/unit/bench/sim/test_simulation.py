"""What must hold of every simulated round, whatever the costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.sim.costs import Costs
from bench.sim.planning import Controlled
from bench.sim.scenario import SYSTEMS, Result, Scenario
from bench.sim.simulation import simulate
from bench.sim.world import Seconds
from controller.plan.placement import Policy
from controller.settings import PolicySettings
from functions.aggregator.machine import MOST_INPUTS
from lifl.errors import ConfigError

MB = 1_000_000
SIDES = st.sampled_from(SYSTEMS)
ARRIVALS = st.lists(st.floats(0, 3), min_size=1, max_size=60).map(sorted)
NODES = st.integers(1, 7)
with_costs = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one(side: str, arrivals: list[float], costs: Costs, **about: object) -> Result:
    scenario = Scenario(side, 45 * MB, **about)  # type: ignore[arg-type]
    [result] = simulate(scenario, costs, [np.asarray(arrivals, np.float64)])
    return result


@with_costs
@given(SIDES, ARRIVALS, NODES, st.integers(1, 4), st.booleans(), st.booleans())
def test_every_update_is_summed_once_and_no_processor_is_used_that_is_not_there(
    costs: Costs,
    side: str,
    arrivals: list[float],
    nodes: int,
    cores: int,
    eager: bool,
    one_machine: bool,
) -> None:
    policies = PolicySettings(capacity=5, eager=eager)
    result = one(
        side, arrivals, costs, nodes=nodes, cores=cores, policies=policies, one_machine=one_machine
    )
    assert result.updates == len(arrivals)
    assert result.busiest <= cores + 1e-9
    machines = 1 if one_machine else nodes
    assert result.cpu <= result.seconds * cores * machines + 1e-6


@with_costs
@given(SIDES, ARRIVALS, NODES)
def test_a_model_is_not_there_before_its_last_update_is_summed(
    costs: Costs, side: str, arrivals: list[float], nodes: int
) -> None:
    result = one(side, arrivals, costs, nodes=nodes)
    # a team of two adds the last at twice the speed
    assert result.seconds >= arrivals[-1] + 45 * MB * costs.aggregator.sum_per_byte / 2
    assert result.last == arrivals[-1]


@with_costs
@given(SIDES, st.integers(1, 60), st.integers(1, 4), st.integers(1, 4))
def test_more_processors_are_never_slower(
    costs: Costs, side: str, clients: int, nodes: int, cores: int
) -> None:
    """With the same tree: a plan for more processors has other leaves."""
    policies = PolicySettings(capacity=10, leaves=2)
    about = {"nodes": nodes, "policies": policies, "leaves": 2}
    few = one(side, [0.0] * clients, costs, cores=cores, **about)
    more = one(side, [0.0] * clients, costs, cores=cores + 1, **about)
    assert more.seconds <= few.seconds * 1.02  # who comes first may differ, and with it who waits


@with_costs
@given(st.integers(1, 200), st.integers(1, 12), st.sampled_from(list(Policy)))
def test_lifl_uses_the_nodes_that_the_controller_plans(
    costs: Costs, clients: int, nodes: int, policy: Policy
) -> None:
    policies = PolicySettings(capacity=20, placement=policy)
    scenario = Scenario("lifl", 45 * MB, nodes=nodes, policies=policies)
    planned = Controlled(scenario)
    planned.tree(clients, 0.0)
    assert planned.plan is not None
    result = one("lifl", [0.0] * clients, costs, nodes=nodes, policies=policies)
    assert result.nodes == len(planned.plan.nodes)
    assert result.aggregators == result.created == len(planned.plan.roles)
    if policy is Policy.BEST_FIT:
        assert result.nodes == min(nodes, -(-clients // 20))


@pytest.mark.parametrize("side", SYSTEMS)
def test_the_same_seed_gives_the_same_result(costs: Costs, side: str) -> None:
    arrivals = sorted(np.random.default_rng(3).random(90) * 4)
    first, again = (one(side, arrivals, costs, nodes=5, seed=7) for _ in range(2))
    assert first == again
    other = one(side, arrivals, costs, nodes=5, seed=8)
    assert other.updates == first.updates
    assert other != first


def test_who_is_warm_is_used_again_and_who_was_idle_for_long_is_not(costs: Costs) -> None:
    rounds = [np.zeros(40)] * 3
    kept = PolicySettings(keep_seconds=10)
    scenario = Scenario("lifl", 45 * MB, nodes=2, fan_in=2, policies=kept)
    first, second, _ = simulate(scenario, costs, rounds)
    assert first.created > 0
    assert second.created == 0
    assert second.seconds < first.seconds
    for result in simulate(scenario, costs, rounds, pause=11.0):
        assert result.created == first.created
    without = replace(scenario, policies=PolicySettings(reuse=False))
    made = [r.created for r in simulate(without, costs, rounds)]
    assert made == [first.created + 2] * 3  # a node's last leaf is not its middle as well


def test_vanilla_keeps_its_functions_for_ninety_seconds(costs: Costs) -> None:
    rounds = [np.zeros(8)] * 2
    scenario = Scenario("vanilla", 45 * MB)
    _, near = simulate(scenario, costs, rounds, pause=10.0)
    _, far = simulate(scenario, costs, rounds, pause=100.0)
    _, zero = simulate(replace(scenario, from_zero=True), costs, rounds, pause=10.0)
    assert near.created < far.created == zero.created
    assert near.seconds < far.seconds


def test_rounds_that_fill_a_node_stay_there(costs: Costs) -> None:
    """What a round did to its node is no load beside the next."""
    rounds: list[Seconds] = [np.sort(np.random.default_rng(i).random(30) * 3) for i in range(4)]
    policies = PolicySettings(capacity=30, keep_seconds=1e6)
    scenario = Scenario("lifl", 233 * MB, nodes=4, policies=policies)
    assert [r.nodes for r in simulate(scenario, costs, rounds)] == [1] * 4


def test_eager_ends_sooner_after_the_last_update_than_lazy(costs: Costs) -> None:
    arrivals = [i * 0.1 for i in range(20)]
    eager, lazy = (
        one("lifl", arrivals, costs, policies=PolicySettings(eager=eager)).seconds
        for eager in (True, False)
    )
    assert eager < lazy - 5 * 45 * MB * costs.aggregator.sum_per_byte


def test_a_pool_that_is_full_holds_uploads_back_and_sums_seal_early(costs: Costs) -> None:
    lazy = PolicySettings(eager=False)  # nothing is sealed early but where slots are scarce
    roomy = one("lifl", [0.0] * 200, costs, memory=200e9, policies=lazy)
    tight = one("lifl", [0.0] * 200, costs, memory=4e9, policies=lazy)
    assert tight.peak_node < roomy.peak_node
    assert tight.peak_node <= 40 * 45 * MB  # of four aggregators
    assert tight.cpu >= roomy.cpu
    assert tight.updates == 200


def test_eager_sums_seal_early_however_much_room_there_is(costs: Costs) -> None:
    few = one("lifl", [0.0] * MOST_INPUTS, costs, memory=200e9)
    many = one("lifl", [0.0] * 200, costs, memory=200e9)
    assert few.peak_node <= many.peak_node <= (MOST_INPUTS + 4) * 45 * MB
    assert (few.updates, many.updates) == (MOST_INPUTS, 200)


def test_slow_clients_are_read_together(costs: Costs) -> None:
    slow = one("lifl", [0.0] * 20, costs, client_rate=9e6, line=1e9)
    assert slow.seconds == pytest.approx(5 + 0.3, abs=0.3)


def test_one_coordinator_counts_a_million_updates_one_after_the_other(costs: Costs) -> None:
    result = one("lifl", [0.0] * 2000, costs, nodes=100)
    assert result.seconds >= 2000 * costs.lifl.claim


def test_a_round_without_clients_is_refused(costs: Costs) -> None:
    with pytest.raises(ValueError, match="round 1"):
        simulate(Scenario("lifl", MB), costs, [np.zeros(0)])


@pytest.mark.parametrize(
    ("about", "said"),
    [({"system": "flower"}, "no side"), ({"nodes": 0}, "nodes"), ({"trip": -1.0}, "back in time")],
)
def test_a_scenario_that_cannot_be_is_refused(about: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Scenario(**{"system": "lifl", "nbytes": MB, **about})  # type: ignore[arg-type]


def test_clients_are_dealt_to_nodes_as_planned(costs: Costs) -> None:
    from bench.sim.planning import planner
    from bench.sim.world import deal

    scenario = Scenario("vanilla", MB, nodes=3)
    tree = planner(scenario).tree(8, 0.0)
    parts = deal(tree, np.arange(8.0), np.random.default_rng(1))
    assert Counter(len(p) for p in parts.values()) == {3: 2, 2: 1}
    assert sorted(t for p in parts.values() for t in p) == list(range(8))
    with pytest.raises(ValueError, match="8 clients, but 9"):
        deal(tree, np.arange(9.0), np.random.default_rng(1))


def test_lifl_has_as_few_leaves_as_keep_up_unless_it_is_told(costs: Costs) -> None:
    rounds = [np.zeros(8)]
    as_needed = Scenario("lifl", 45 * MB)
    assert simulate(as_needed, costs, rounds)[0].aggregators == 1
    assert simulate(replace(as_needed, fan_in=2), costs, rounds)[0].aggregators == 4
    with pytest.raises(ConfigError, match="fan_in"):
        replace(as_needed, fan_in=0)
