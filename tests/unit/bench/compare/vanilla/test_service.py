"""Who gets which request, with replicas that are there at once."""

from __future__ import annotations

import threading
import time

import pytest

from bench.compare.vanilla.scaler import Settings
from bench.compare.vanilla.service import Service


class Quick:
    """A replica without processes."""

    ended = 0

    def __init__(self, name: str) -> None:
        if name.endswith("-broken-1"):
            raise RuntimeError("no room")
        self.name, self.busy, self.sums = name, 0, set()
        self.start_seconds = 0.5

    def await_ready(self) -> None:
        pass

    def end(self) -> None:
        Quick.ended += 1

    def wait(self) -> None:
        pass


def _service(name="s", *, concurrency=2, most=0, failed=None, clock=time.monotonic) -> Service:
    failures = failed if failed is not None else []
    return Service(name, Quick, Settings(most=most), concurrency, failures.append, clock=clock)


@pytest.fixture
def service():
    made = _service()
    yield made
    made.scale_to_zero()


def test_the_first_request_starts_one_and_the_tick_the_rest(no_leaks):
    now = [100.0]
    service = _service(clock=lambda: now[0])
    for _ in range(8):
        service.arrived()
    with service.place():
        pass
    assert service.take_counts().started == 1
    now[0] += 2
    service.tick()
    assert service.take_counts().started == 3
    service.scale_to_zero()


def test_idle_replicas_go_one_stable_window_and_a_grace_later(no_leaks):
    now = [100.0]
    service = _service(clock=lambda: now[0])
    service.arrived()
    with service.place():
        service.tick()
    now[0] += 1
    service.left()
    before = Quick.ended
    while Quick.ended == before and now[0] < 300:
        now[0] += 2
        service.tick()
        service.join()
    assert 60 + 30 <= now[0] - 101 <= 60 + 30 + 4
    service.scale_to_zero()


def test_who_holds_a_sum_is_left_alone(no_leaks):
    now = [100.0]
    service = _service(clock=lambda: now[0])
    service.arrived()
    with service.place():
        holder = service.replica_for("a")
    service.done(holder, "a", finished=False)
    service.left()
    before = Quick.ended
    for seconds in (61, 120, 240):
        now[0] = 100.0 + seconds
        service.tick()
    service.join()
    assert Quick.ended == before
    assert service.replica_for("a") is holder
    service.scale_to_zero()


def test_requests_of_a_sum_go_to_one_replica_and_sums_are_spread(service):
    for _ in range(4):
        service.arrived()
    with service.place():
        service.tick()
    first = service.replica_for("a")
    assert service.replica_for("a") is first
    service.done(first, "a", finished=False)
    service.done(first, "a", finished=True)
    assert first.busy == 0
    assert not first.sums


def test_a_place_is_had_only_while_there_is_room():
    service = _service(concurrency=1, most=1)
    for _ in range(2):
        service.arrived()
    taken, second = threading.Event(), threading.Event()

    def wait() -> None:
        taken.set()
        with service.place():
            second.set()

    with service.place():
        thread = threading.Thread(target=wait)
        thread.start()
        taken.wait(5)
        assert not second.is_set()
    assert second.wait(5)
    thread.join()
    service.scale_to_zero()


def test_zero_ends_all_and_begins_anew(service):
    service.arrived()
    with service.place():
        pass
    service.left()
    before = Quick.ended
    service.scale_to_zero()
    assert Quick.ended == before + 1
    service.arrived()
    with service.place():
        pass
    assert service.take_counts().started == 2


def test_a_start_that_fails_is_heard():
    failed: list[str] = []
    service = _service("x-broken", failed=failed)
    service.arrived()
    service.scale_to_zero()
    assert failed == ["x-broken-1: no room"]
