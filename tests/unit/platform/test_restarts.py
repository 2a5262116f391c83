from __future__ import annotations

from lifl.platform.restarts import HEALTHY_SECONDS, LONGEST_DELAY, LOOP_DEATHS, Restarts


def test_each_early_death_doubles_the_delay_up_to_a_limit() -> None:
    record = Restarts()
    delays = [record.died(0.1) for _ in range(12)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == LONGEST_DELAY
    assert record.deaths == 12


def test_a_crash_loop_is_several_early_deaths_in_a_row() -> None:
    record = Restarts()
    for _ in range(LOOP_DEATHS - 1):
        record.died(0.1)
    assert not record.crash_loop
    record.died(0.1)
    assert record.crash_loop
    record.died(HEALTHY_SECONDS)
    assert not record.crash_loop
    assert record.in_a_row == 1
