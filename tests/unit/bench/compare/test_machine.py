"""The machine that measures: free memory brought together, where that is allowed."""

from __future__ import annotations

import os
from pathlib import Path

from bench.compare.machine import (
    LOOK_SECONDS,
    SETTLE_SECONDS,
    copying_speed,
    join_free_memory,
    machine,
    settle,
)


def test_the_kernel_is_asked(tmp_path: Path) -> None:
    order = tmp_path / "compact_memory"
    order.touch()
    assert join_free_memory(order)
    assert order.read_text() == "1\n"


def test_who_may_not_ask_goes_on_without(tmp_path: Path) -> None:
    assert not join_free_memory(tmp_path / "nobody" / "compact_memory")


def test_what_a_reader_must_know() -> None:
    known = machine()
    assert known["kernel"] == os.uname().release
    assert (
        known["congestion"]
        in Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    )


def test_memory_s_speed_is_measured() -> None:
    assert 0.1 < copying_speed() < 1000


def test_a_round_begins_when_the_machine_rests() -> None:
    looks = [80.0, 30.0, 4.0, 15.0, 5.0, 90.0]
    assert settle(lambda seconds: looks.pop(0))
    assert looks == [90.0]  # it rested before all was on the disk, and after


def test_a_machine_that_never_rests_is_not_waited_for() -> None:
    waited: list[float] = []
    assert not settle(lambda seconds: (waited.append(seconds), 100.0)[1])
    assert sum(waited) <= SETTLE_SECONDS + LOOK_SECONDS
