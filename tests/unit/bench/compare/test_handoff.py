from __future__ import annotations

import numpy as np
import pytest

from bench.compare import handoff, handoff_ends, mean
from bench.compare.handoff import Result, Sample


def _result(lifl: float, vanilla: float, direct: float, n: int = 7) -> Result:
    result = Result(233_100_000)
    for way, seconds in zip(handoff.WAYS, (lifl, 2 * lifl, vanilla, direct), strict=True):
        result.samples[way] = [Sample(seconds, 2 * seconds, 0.01, seconds - 0.02, 0.01)] * n
    return result


def test_figures_are_ratios_with_the_stated_bars():
    found = {f.key: f for f in handoff.figures(_result(0.05, 0.65, 0.2))}
    assert found["handoff_vanilla_over_lifl"].median == pytest.approx(13)
    assert found["handoff_vanilla_over_lifl"].passed
    assert found["handoff_cpu_vanilla_over_lifl"].median == pytest.approx(13)
    assert found["handoff_direct_over_lifl"].median == pytest.approx(4)
    assert found["handoff_direct_over_lifl"].passed is False
    assert [str(f.bar) for f in found.values()] == ["≥ 12", "≥ 12", "≥ 5"]
    notes = found["handoff_vanilla_over_lifl"].notes
    assert notes["ratio_with_both_inputs_timed"] == pytest.approx(11)
    assert notes["ratio_with_two_passes"] == pytest.approx(6.5)
    assert (notes["lifl_ms"], notes["vanilla_ms"], notes["lifl_hop_ms"]) == (50, 650, 30)


def test_references_are_of_the_hop_alone():
    by_path = {r.path: r for r in handoff.references(_result(0.05, 0.66, 0.31))}
    slow = by_path["c: Redis Streams and a sidecar, 233 MB"]
    assert slow.measured == pytest.approx(233.1 / 0.64)
    assert slow.published == pytest.approx(362.5, abs=0.1)
    assert slow.holds
    assert not by_path["b: one sidecar, 233 MB"].holds


def test_neither_of_the_passes_that_were_published_would_be_void():
    for passes in zip(*handoff.PUBLISHED.values(), strict=True):
        vanilla, direct = (seconds + 0.02 for seconds in passes)  # within: the last input's sum
        assert all(r.holds for r in handoff.references(_result(0.05, vanilla, direct)))


def test_a_wrong_sum_is_found():
    expected = np.ones(mean.PLACES, np.float32)
    handoff._check("lifl", expected, expected * np.float32(1 + 1e-6))
    for wrong in (expected[:-1], expected * 2):
        with pytest.raises(RuntimeError, match="lifl: the consumer's sum is wrong"):
            handoff._check("lifl", expected, wrong)


def test_the_result_is_the_weighted_sum_of_both_inputs():
    elements = 100_000
    first, last = handoff_ends.inputs(elements)
    at = mean.places(elements)
    found = handoff_ends.output((first, last), elements)
    np.testing.assert_allclose(found, 0.75 * first[at] + 0.25 * last[at], rtol=1e-6)
    assert not np.array_equal(first, last)


def test_how_fast_the_machine_is_just_now():
    told = handoff._machine(1 << 24)
    assert set(told) == {"copy_ms", "fresh_ms"}
    assert all(v > 0 for v in told.values())
