"""The load of the last second, and the message it goes out in."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.aggregator.traffic import Stat, Traffic


class Clock:
    """Time that passes when told to; binary fractions, so that sums are exact."""

    def __init__(self) -> None:
        self.now = 1024.0

    def __call__(self) -> int:
        return round(self.now * 1_000_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def figures(traffic: Traffic) -> tuple[float, float, float, float]:
    s = traffic.stat("p")
    return s.concurrency, s.proxied_concurrency, s.requests, s.proxied_requests


def test_the_first_second_reports_nothing(clock):
    traffic = Traffic(clock)
    traffic.enter(False)
    clock.now += 0.75
    assert figures(traffic) == (0, 0, 0, 0)
    clock.now += 0.25
    assert figures(traffic) == (1, 0, 1, 0)


def test_two_half_seconds_are_one_request_on_average(clock):
    traffic = Traffic(clock)
    for _ in range(2):
        traffic.enter(False)
        clock.now += 0.5
        traffic.leave(False)
    assert figures(traffic) == (1, 0, 2, 0)


def test_proxied_requests_are_part_of_all(clock):
    traffic = Traffic(clock)
    traffic.enter(True)
    traffic.enter(False)
    clock.now += 0.25
    traffic.leave(True)
    clock.now += 0.75
    assert figures(traffic) == (1.25, 0.25, 2, 1)


def test_a_request_counts_in_every_second_it_takes_and_once_as_a_request(clock):
    traffic = Traffic(clock)
    clock.now += 0.5
    traffic.enter(False)
    clock.now += 0.5
    assert figures(traffic) == (0.5, 0, 1, 0)
    clock.now += 1.0
    assert figures(traffic) == (1, 0, 0, 0)
    clock.now += 0.25
    traffic.leave(False)
    clock.now += 0.75
    assert figures(traffic) == (0.25, 0, 0, 0)


def test_nobody_looked_for_a_long_time(clock):
    traffic = Traffic(clock)
    traffic.enter(True)
    traffic.enter(False)
    clock.now += 1000.5
    assert figures(traffic) == (2, 1, 0, 0)
    traffic.leave(True)
    traffic.leave(False)
    clock.now += 0.5
    assert figures(traffic) == (1, 0.5, 0, 0)
    clock.now += 77.0
    assert figures(traffic) == (0, 0, 0, 0)


def test_looking_changes_nothing(clock):
    """Two autoscalers, or one that asks more often, see the same."""
    traffic = Traffic(clock)
    traffic.enter(False)
    for _ in range(8):
        clock.now += 0.125
        traffic.stat("p")
    assert figures(traffic) == figures(traffic) == (1, 0, 1, 0)


def test_who_waits_counts_and_is_taken_for_what_those_inside_are(clock):
    traffic = Traffic(clock)
    for proxied in (True, True, False, False):
        traffic.enter(proxied)
    for _ in range(4):
        traffic.wait()
    clock.now += 1.0
    assert figures(traffic) == (8, 4, 4, 2)
    for _ in range(4):
        traffic.taken()
    clock.now += 1.0
    assert figures(traffic) == (4, 2, 0, 0)


def test_waiting_alone(clock):
    traffic = Traffic(clock)
    traffic.wait()
    clock.now += 1.0
    assert figures(traffic) == (1, 0, 0, 0)


EVENTS = st.lists(st.tuples(st.sampled_from(["in", "out", "look"]), st.integers(0, 300)))


@given(EVENTS)
def test_every_second_is_the_integral_of_what_happened(events):
    """Against the definition: time in 1/64 s, the count of each tick remembered."""
    clock = Clock()
    traffic = Traffic(clock)
    ticks: list[int] = []
    inside = 0
    begun: list[int] = []
    for what, pause in events:
        ticks += [inside] * pause
        clock.now += pause / 64
        if what == "in":
            traffic.enter(False)
            inside += 1
            begun.append(len(ticks))
        elif what == "out" and inside:
            traffic.leave(False)
            inside -= 1
        elif what == "look":
            full = len(ticks) // 64
            got = figures(traffic)
            if full == 0:
                assert got == (0, 0, 0, 0)
            else:
                start, end = (full - 1) * 64, full * 64
                assert got[0] == sum(ticks[start:end]) / 64
                assert got[2] == sum(start <= at < end for at in begun)


# -- the message ------------------------------------------------------------------------


def decoded(message: bytes) -> Iterator[tuple[int, object]]:
    """Read a protobuf message by the encoding's own rules, not by our encoder."""

    def varint() -> int:
        nonlocal message
        value = shift = 0
        while True:
            byte, message = message[0], message[1:]
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while message:
        key = varint()
        if key & 7 == 1:
            (value,) = struct.unpack("<d", message[:8])
            message = message[8:]
            yield key >> 3, value
        elif key & 7 == 2:
            length = varint()
            assert length <= len(message)
            yield key >> 3, message[:length].decode()
            message = message[length:]
        else:
            raise AssertionError(f"wire type {key & 7}")


NUMBERS = st.floats(0, 1e9)


@given(st.text(max_size=300), st.lists(NUMBERS, min_size=5, max_size=5))
def test_the_message_has_the_fields_of_stat_proto(name, values):
    """Names and numbers from knative/serving, pkg/autoscaler/metrics/stat.proto."""
    fields = dict(decoded(Stat(name, *values).encode()))
    assert fields.pop(1, "") == name  # pod_name
    # average_concurrent_requests, average_proxied_concurrent_requests, request_count,
    # proxied_request_count, process_uptime
    for number, value in enumerate(values, 2):
        assert fields.pop(number, 0.0) == value
    assert not fields


def test_the_message_byte_by_byte():
    """As protobuf's own encoder writes it."""
    assert Stat("a-1", 1.5, 0.0, 2.0).encode() == bytes.fromhex(
        "0a03612d3111000000000000f83f210000000000000040"
    )


def test_the_autoscaler_reads_no_more_than_336_bytes():
    """Its client limits what it reads; a pod's name has 253 characters at most."""
    assert len(Stat("p" * 253, 1.0, 1.0, 1.0, 1.0, 1.0).encode()) <= 6 * 10 + 256 + 20
