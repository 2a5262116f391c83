"""Everything at once on one gateway: parked polls, slow uploads, probes, and clients in a hurry.

That 2,000 polling clients leave probes alone is in ``tests/integration/test_gateway_serving.py``;
here the gateway also moves bytes, for a real round.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from lifl.platform import doctor

from .kit import (
    Answer,
    Arrays,
    Job,
    Platform,
    document,
    platform,
    read_answer,
    samples_of,
    wait_for,
)

FAST = range(4)
SLOW = range(4, 64)
POLLS = 400
ELEMENTS = 512 << 10
RATE = 200_000
"""Bytes per second of a slow client: its update would take ten seconds."""
TICK = 0.05


@pytest.fixture(scope="module")
def job() -> Iterator[Job]:
    dataplane, _ = doctor.default_dataplane()
    with platform(dataplane=dataplane) as up:
        start = {"w": np.zeros(ELEMENTS, np.float32)}
        options = {"perRound": len(FAST), "selection": "all"}
        yield up.submit("busy", clients=64, model=start, slots=80, **options)


def update(client: int, number: int) -> Arrays:
    return {"w": np.full(ELEMENTS, 100 * number + client, np.float32)}


def post_fast(job: Job, number: int) -> list[float]:
    """Post the fast clients' updates one after the other; return how long each took, seconds."""
    took = []
    for client in FAST:
        body = document(update(client, number))
        began = time.monotonic()
        answer = wait_for(lambda: taken(job, client, number, body), "the update to be taken")  # noqa: B023
        took.append(time.monotonic() - began)
        assert answer.status == 202, answer
    return took


def taken(job: Job, client: int, number: int, body: bytes) -> Answer | None:
    """Post once; None if the gateway, which may not know the job's pool yet, says 503."""
    answer = job.request(client, number, body)
    return None if answer.status == 503 else answer


def check(job: Job, number: int) -> None:
    n = [samples_of(c) for c in FAST]
    mean = np.average([100 * number + c for c in FAST], weights=n)
    model = job.committed(number)["w"]
    np.testing.assert_allclose(model, np.full(ELEMENTS, mean), rtol=1e-6)


@contextlib.contextmanager
def trickle(socks: list[socket.socket], body: bytes) -> Iterator[None]:
    """Send ``body`` on each connection at RATE in the background, then all of the rest."""
    stop = threading.Event()
    sent = 0

    def run() -> None:
        nonlocal sent
        while not stop.wait(TICK):
            piece = body[sent : sent + int(RATE * TICK)]
            for sock in socks:
                sock.sendall(piece)
            sent += len(piece)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert sent < len(body), "the slow clients were done before anything was shown"
    for sock in socks:
        with contextlib.suppress(ConnectionError):
            sock.sendall(body[sent:])


@contextlib.contextmanager
def probe(job: Job) -> Iterator[list[float]]:
    """Ask for /healthz again and again in the background; yields how long each took, seconds."""
    stop = threading.Event()
    took: list[float] = []

    def run() -> None:
        with job.raw() as sock:
            while not stop.wait(0.005):
                began = time.monotonic()
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
                assert read_answer(sock).status == 200
                took.append(time.monotonic() - began)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def park(job: Job, client: int, after: int) -> socket.socket:
    sock = job.raw()
    lines = [
        f"GET /v1/jobs/{job.name}/rounds/current?client=c{client}&after={after}&wait=25 HTTP/1.1",
        "Host: gateway",
        f"Authorization: Bearer {job.token(f'c{client}')}",
    ]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return sock


def parked(up: Platform) -> int:
    return int(up.metric(up.url, "lifl_gateway_polls_parked"))


def test_slow_uploads_and_polls_hold_nobody_up(job: Job) -> None:
    first = int(job.open_round()["round"])
    alone = statistics.median(post_fast(job, first))
    check(job, first)
    number = int(job.open_round(first)["round"])
    with contextlib.ExitStack() as held:
        polls = [held.enter_context(park(job, i % 64, number)) for i in range(POLLS)]
        body = document(update(SLOW[0], number))
        slow = [held.enter_context(job.raw()) for _ in SLOW]
        for sock, client in zip(slow, SLOW, strict=True):
            sock.sendall(job.head(client, number, len(body)))
        with trickle(slow, body), probe(job) as took:
            wait_for(lambda: job.platform.usage(job.name).writing >= len(SLOW), "slow uploads")
            wait_for(lambda: parked(job.platform) == POLLS, "parked polls")
            busy = post_fast(job, number)
            opened = time.monotonic()
            answers = [read_answer(sock) for sock in polls]
            assert time.monotonic() - opened < 5
            wait_for(lambda: len(took) > 100 or None, "enough probes")
        late = [read_answer(sock) for sock in slow]
    check(job, number)
    assert {json.loads(a.body)["round"] for a in answers} == {number + 1}
    assert {a.status for a in late} == {409}
    assert {a.code for a in late} <= {"round-closed", "wrong-round", "claim-gone"}
    assert max(busy) < 10 * alone + 0.5
    assert statistics.median(took) < 0.1
    assert max(took) < 2  # seconds; the slow ones take ten
    following = int(job.open_round(number)["round"])
    post_fast(job, following)
    check(job, following)
