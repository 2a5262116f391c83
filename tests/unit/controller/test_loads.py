"""Load from counters: rate times duration, smoothed; restarts and silence do no harm."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.loads import Counts, Loads, Sample

START = Sample("1", frozenset({"j"}), {"j": Counts(100, 90, 10**9)}, at_ns=5 * 10**9)


def later(
    sample: Sample,
    seconds: float,
    arrived: int,
    added: int,
    each: float,
    job: str = "j",
    adding: float = 0.0,
) -> Sample:
    then = sample.work.get(job, Counts())
    waited_ns = then.waited_ns + int(added * each * 1e9)
    busy_ns = then.busy_ns + int(added * adding * 1e9)
    now = Counts(then.arrived + arrived, then.added + added, waited_ns, busy_ns)
    at_ns = sample.at_ns + int(seconds * 1e9)
    return replace(sample, work={**sample.work, job: now}, at_ns=at_ns)


def note(loads: Loads, sample: Sample, job: str = "j") -> float:
    return loads.note("n", sample).get(job, 0.0)


def test_load_is_what_came_a_second_times_what_each_took() -> None:
    loads = Loads(alpha=0.0, period=1.0)
    assert note(loads, START) == 0.0
    assert note(loads, later(START, 2.0, 40, 40, 0.1)) == pytest.approx(20 * 0.1)


def test_work_is_what_came_a_second_times_what_adding_took_however_long_it_waited() -> None:
    loads = Loads(alpha=0.5, period=1.0)
    assert loads.work("n") == {}
    loads.note("n", START)
    assert loads.work("n") == {}
    busy = later(START, 2.0, 40, 40, 5.0, adding=0.03)
    loads.note("n", busy)
    assert loads.work("n") == pytest.approx({"j": 20 * 0.03})
    loads.note("n", later(busy, 1.0, 10, 0, 0))
    assert loads.work("n") == pytest.approx({"j": (20 + 10) / 2 * 0.03})
    loads.forget(frozenset())
    assert loads.work("n") == {}


def test_the_past_weighs_alpha() -> None:
    loads = Loads(alpha=0.7, period=1.0)
    loads.note("n", START)
    busy = later(START, 1.0, 10, 10, 1.0)
    assert note(loads, busy) == pytest.approx(10.0)
    assert note(loads, later(busy, 1.0, 0, 0, 0)) == pytest.approx(7.0)


def test_a_look_before_the_period_is_over_changes_nothing() -> None:
    loads = Loads(alpha=0.0, period=1.0)
    loads.note("n", START)
    assert note(loads, later(START, 0.5, 1000, 1000, 1.0)) == 0.0
    assert note(loads, later(START, 1.0, 10, 10, 0.5)) == pytest.approx(5.0)


def test_while_nothing_is_summed_the_last_duration_is_used() -> None:
    loads = Loads(alpha=0.0, period=1.0)
    loads.note("n", START)
    first = later(START, 1.0, 4, 4, 0.25)
    loads.note("n", first)
    assert note(loads, later(first, 1.0, 8, 0, 0)) == pytest.approx(8 * 0.25)


def test_a_late_look_fades_the_load_by_all_periods_since() -> None:
    loads = Loads(alpha=0.7, period=1.0)
    loads.note("n", START)
    busy = later(START, 1.0, 10, 10, 1.0)
    loads.note("n", busy)
    assert note(loads, later(busy, 3.5, 0, 0, 0)) == pytest.approx(10 * 0.7**3)


def test_each_job_has_a_load_of_its_own_until_it_is_gone() -> None:
    loads = Loads(alpha=0.7, period=1.0)
    loads.note("n", START)
    busy = later(START, 1.0, 10, 10, 1.0)
    assert loads.note("n", busy) == pytest.approx({"j": 10.0})
    both = later(busy, 1.0, 4, 4, 0.5, job="k")
    assert loads.note("n", both) == pytest.approx({"j": 7.0, "k": 2.0})
    alone = replace(later(both, 1.0, 0, 0, 0), domains=frozenset({"k"}))
    alone = replace(alone, work={"k": alone.work["k"]})
    assert loads.note("n", alone) == pytest.approx({"k": 1.4})


def test_an_agent_that_was_restarted_counts_from_where_it_is_then() -> None:
    loads = Loads(alpha=0.5, period=1.0)
    loads.note("n", START)
    loads.note("n", later(START, 1.0, 10, 10, 1.0))
    fresh = Sample("2", frozenset({"j"}), {"j": Counts()}, 50 * 10**9)
    assert note(loads, fresh) == pytest.approx(10.0)
    assert note(loads, later(fresh, 1.0, 0, 0, 0)) == pytest.approx(5.0)


def test_a_node_that_is_gone_is_forgotten() -> None:
    loads = Loads(alpha=0.0, period=1.0)
    loads.note("n", START)
    loads.note("n", later(START, 1.0, 10, 10, 1.0))
    loads.forget(frozenset({"m"}))
    assert note(loads, later(START, 2.0, 20, 20, 1.0)) == 0.0


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.integers(0, 100), st.integers(0, 100), st.floats(0, 10)),
        max_size=20,
    )
)
def test_load_is_never_negative_nor_above_the_most_that_was_seen(
    steps: list[tuple[float, int, int, float]],
) -> None:
    loads, sample = Loads(alpha=0.7, period=0.5), START
    most = 10.0 * sum(arrived for _, arrived, _, _ in steps) / 0.5
    loads.note("n", sample)
    for seconds, arrived, added, each in steps:
        sample = later(sample, seconds, arrived, added, each)
        assert 0.0 <= note(loads, sample) <= most * 1.001


def test_an_answer_is_read() -> None:
    raw = {"epoch": 3, "domains": ["a"], "work": {"a": [1, 2, 3, 4]}, "at_ns": 5}
    assert Sample.from_json(raw) == Sample("3", frozenset({"a"}), {"a": Counts(1, 2, 3, 4)}, 5)
