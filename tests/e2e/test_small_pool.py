"""A round with many more updates than the pool has slots for."""

from __future__ import annotations

import pytest

from .kit import MARKS, Platform

CLIENTS = MARKS
SLOTS = 16


@pytest.mark.parametrize("timing", ["eager", "lazy"])
def test_every_update_finds_room_in_the_end(running: Platform, timing: str) -> None:
    job = running.submit(f"small-{timing}", clients=CLIENTS, slots=SLOTS, timing=timing)
    for number in (1, 2):
        assert job.open_round(number - 1)["round"] == number
        job.deliver_all(number)
        job.check(number)
    assert running.usage(job.name).peak_in_use <= SLOTS
    assert [row["attempts"] for row in job.history()] == [1, 1]
    job.stop()
