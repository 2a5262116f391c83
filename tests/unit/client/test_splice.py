"""Memory sent by reference: the same bytes, wherever it lies and whatever the system offers."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.client import splice
from lifl.client.http import HttpClient
from lifl.client.splice import PIPE_BYTES, WORTH, Splicer


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def received(far: socket.socket, nbytes: int) -> bytes:
    parts = []
    while nbytes and (part := far.recv(min(nbytes, 1 << 20))):
        parts.append(part)
        nbytes -= len(part)
    return b"".join(parts)


def sent(views: list[memoryview], near: socket.socket) -> threading.Thread:
    def run() -> None:
        with contextlib.closing(Splicer(near)) as splicer:
            for view in views:
                splicer.send(view)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@settings(deadline=None, max_examples=40)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 5000), st.integers(0, 3 * PIPE_BYTES)), min_size=1, max_size=4
    ),
    timeout=st.sampled_from([None, 5.0]),
    writable=st.booleans(),
)
def test_what_is_sent_arrives(
    cuts: list[tuple[int, int]], timeout: float | None, writable: bool
) -> None:
    """At any address, of any length, more than a pipe holds, on any kind of socket."""
    memory = np.random.default_rng(0).integers(0, 256, 4 * PIPE_BYTES, np.uint8)
    memory.flags.writeable = writable
    views = [memoryview(memory)[start : start + size] for start, size in cuts]
    with connected() as (near, far):
        near.settimeout(timeout)
        thread = sent(views, near)
        assert received(far, sum(map(len, views))) == b"".join(views)
        thread.join()


def test_it_is_by_reference_and_not_a_copy() -> None:
    """What is changed before it was received is received changed: why an answer is waited for."""
    memory = bytearray(WORTH)
    with connected() as (near, far), contextlib.closing(Splicer(near)) as splicer:
        splicer.send(memory)
        memory[:] = b"\x01" * WORTH
        assert received(far, WORTH) == memory


def test_it_goes_by_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = os.splice
    monkeypatch.setattr(os, "splice", lambda *a, **k: calls.append(a) or real(*a, **k))
    data = memoryview(bytes(2 * PIPE_BYTES))
    with connected() as (near, far):
        thread = sent([data], near)
        received(far, len(data))
        thread.join()
    assert calls


def refuse(*_: object) -> int:
    return -1


@pytest.mark.parametrize("what", ["absent", "refused", "no pipe"])
def test_a_system_that_does_not_offer_it_copies(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "absent":
        monkeypatch.setattr(splice, "_vmsplice", None)
    elif what == "refused":
        monkeypatch.setattr(splice, "_vmsplice", refuse)
    else:

        def none_left(flags: int) -> tuple[int, int]:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(os, "pipe2", none_left)
    data = memoryview(os.urandom(3 * WORTH))
    with connected() as (near, far):
        thread = sent([data, data], near)
        assert received(far, 6 * WORTH) == bytes(data) * 2
        thread.join()


def test_a_socket_that_takes_nothing_times_out() -> None:
    data = memoryview(bytes(64 << 20))
    with connected() as (near, far):
        near.settimeout(0.2)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        began = time.monotonic()
        with contextlib.closing(Splicer(near)) as splicer, pytest.raises(TimeoutError):
            splicer.send(data)
        assert time.monotonic() - began >= 0.2


def test_after_an_error_nothing_of_it_is_sent_with_the_next() -> None:
    with connected() as (near, far), connected() as (other, its):
        near.settimeout(5.0)
        splicer = Splicer(near)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        far.close()
        with pytest.raises(OSError):
            while True:
                splicer.send(bytes(PIPE_BYTES))
        splicer._sock = other
        data = os.urandom(WORTH)
        splicer.send(data)
        assert received(its, WORTH) == data
        splicer.close()


def test_no_pipe_is_left(no_leaks: None) -> None:
    with connected() as (near, far):
        splicer = Splicer(near)
        splicer.send(bytes(WORTH))
        received(far, WORTH)
        del splicer
        thread = sent([memoryview(bytes(WORTH))], near)
        received(far, WORTH)
        thread.join()


# -- as a client uses it ----------------------------------------------------------------------


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("asked", [True, False])
def test_a_clients_views_go_by_reference_if_asked_for(
    monkeypatch: pytest.MonkeyPatch, no_leaks: None, asked: bool
) -> None:
    """On a kept connection, and only they."""
    by_reference = []
    real = Splicer.send

    def send(self: Splicer, data: memoryview) -> None:
        by_reference.append(len(data))
        real(self, data)

    monkeypatch.setattr(Splicer, "send", send)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with contextlib.closing(HttpClient(url, by_reference=asked)) as client:
            large = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
            for _ in range(2):
                views = [b"head", memoryview(large), memoryview(large)[:100]]
                size = sum(len(v) for v in views)
                answer = client.request(
                    "POST", "/", body=iter(views), headers={"Content-Length": str(size)}
                )
                assert answer.data == b"".join(bytes(v) for v in views)
            assert client.request("POST", "/", body=bytes(1 << 20)).status == 200
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert by_reference == ([1 << 20] * 2 if asked else [])
