"""Workloads: every load valid, every side known, and what does not fit left out."""

from __future__ import annotations

import pytest

from bench.compare import arrivals, sides, workloads
from bench.compare.api import Load
from bench.compare.summary import ROUND
from bench.compare.workloads import Workload

GB = 10**9


@pytest.mark.parametrize("made", [workloads.quick, workloads.full])
def test_sides_are_known_and_names_differ(made: object) -> None:
    found = made()  # type: ignore[operator]
    names = [w.name for w in found]
    assert len(set(names)) == len(names)
    assert ROUND in names
    for w in found:
        assert set(w.sides) <= set(sides.makers())
        assert set(w.few) <= set(w.sides)
        assert w.warm >= 1
        for side in w.sides:
            assert workloads.need(side, w.load, 1000) > 0


def test_full_has_what_the_issue_asks_for() -> None:
    found = workloads.full()
    assert {w.load.model for w in found} == {"45mb", "85mb", "233mb"}
    assert {8, 20, 60, 100} <= {w.load.clients for w in found}
    assert {w.name.partition("-")[0] for w in found} == {
        *("burst", "poisson", "diurnal", "ablation")
    }
    assert all(w.rounds * w.passes >= 5 for w in found)


def test_quick_plays_a_burst_and_an_ablation() -> None:
    found = workloads.quick()
    assert {w.name.partition("-")[0] for w in found} == {"burst", "ablation"}
    assert all(w.rounds * w.passes >= 2 for w in found)
    (whole,) = [w for w in found if w.name == ROUND]
    assert whole.rounds == 3


def test_steps_that_are_left_out_are_named_by_the_next() -> None:
    assert workloads.strides(workloads.STEPS) == {}
    (ablation,) = [w for w in workloads.quick() if w.name.startswith("ablation")]
    assert ablation.sides == ("step-0-base", "step-4-eager")
    assert ablation.titles == {"step-4-eager": "+placement +hierarchy +reuse +eager"}
    assert ablation.cold == ("step-0-base",)
    found = workloads.strides((*workloads.STEPS[:1], *workloads.STEPS[2:]))
    assert found == {"step-2-hierarchy": "+placement +hierarchy"}


def test_plays_are_warm_ups_and_rounds() -> None:
    load = Load("x", "45mb", 3, arrivals.burst(3), sizes=(1, 3, 3))
    w = Workload(load, ("a", "b"), "", "", rounds=3, passes=2, few={"b": 1}, cold=("b",))
    assert (w.plays("a"), w.plays("b")) == ((3 + 2) * 2, 2)


def test_the_round_that_bars_speak_of_has_all_their_sides() -> None:
    for made in (workloads.quick, workloads.full):
        (found,) = [w for w in made() if w.name == ROUND]
        assert {"lifl", "serverful", "vanilla", "flower", "nvflare"} <= set(found.sides)
        assert found.together


def _workload(*sides: str) -> Workload:
    load = Load("x", "45mb", 20, arrivals.burst(20))
    return Workload(load, sides, "all at once", "a trial")


def test_all_at_once_where_memory_is_plenty() -> None:
    chosen = workloads.choose(_workload("lifl", "vanilla"), 45_000_000, 100 * GB)
    assert chosen.sides == ("lifl", "vanilla")
    assert chosen.together
    assert not chosen.left_out


def test_one_after_the_other_where_it_is_short() -> None:
    lifl, vanilla = (workloads.need(s, _workload().load, 45_000_000) for s in ("lifl", "vanilla"))
    available = int(max(lifl, vanilla) / workloads.SHARE) + 100
    chosen = workloads.choose(_workload("lifl", "vanilla"), 45_000_000, available)
    assert chosen.sides == ("lifl", "vanilla")
    assert not chosen.together


def test_left_out_with_a_reason_where_there_is_none() -> None:
    vanilla = workloads.need("vanilla", _workload().load, 45_000_000)
    available = int(vanilla / workloads.SHARE) - 100
    chosen = workloads.choose(_workload("lifl", "vanilla"), 45_000_000, available)
    assert chosen.sides == ("lifl",)
    assert list(chosen.left_out) == ["vanilla"]
    assert "GB" in chosen.left_out["vanilla"]


def test_a_varying_load_needs_memory_for_its_largest_round() -> None:
    load = Load("x", "45mb", 20, arrivals.burst(20), sizes=(5, 10))
    most = workloads.need("lifl", load, 45_000_000)
    assert most < workloads.need("lifl", _workload().load, 45_000_000)
