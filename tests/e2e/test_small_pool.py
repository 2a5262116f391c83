"""A round with many more updates than the pool has slots for."""

from __future__ import annotations

import pytest

from .kit import MARKS, Platform

CLIENTS = MARKS
SLOTS = 16


@pytest.mark.parametrize(("timing", "fan_in"), [("eager", 2), ("lazy", 2), ("eager", None)])
def test_every_update_finds_room_in_the_end(
    running: Platform, timing: str, fan_in: int | None
) -> None:
    name = f"small-{timing}-{fan_in or 'any'}"
    job = running.submit(name, clients=CLIENTS, slots=SLOTS, timing=timing, fan_in=fan_in)
    for number in (1, 2):
        assert job.open_round(number - 1)["round"] == number
        if fan_in is None:
            assert len(job.plan()["roles"]) == 1  # which keeps up by far
        job.deliver_all(number)
        job.check(number)
    assert running.usage(job.name).peak_in_use <= SLOTS
    assert [row["attempts"] for row in job.history()] == [1, 1]
    job.stop()
