"""The hand-off with real processes, small."""

from __future__ import annotations

import pytest

from bench.compare import handoff


@pytest.mark.ebpf
def test_all_ways_hand_over_the_same_sum(no_leaks):
    result = handoff.measure(2_000_000, n=2, warm=1)
    for way in handoff.WAYS:
        assert len(result.samples[way]) == 2
        for sample in result.samples[way]:
            assert 0 < sample.produced < sample.latency < 10
            assert 0 < sample.hop < sample.latency
            assert sample.cpu > 0
    assert result.versions["redis"]
    assert "_two_passes" in result.stand_ins[-1]
    assert len(handoff.references(result)) == 2
