"""Probes and metrics over HTTP, of a loop that answers, hangs or is not there yet."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf.agent import web
from ebpf.agent.health import Health
from ebpf.agent.settings import AgentSettings
from ebpf.agent.web import Web
from lifl.dataplane import framing
from lifl.errors import WireError

WAIT = 10.0


class World:
    """The HTTP side, and a loop that may be started and hung."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "admin.sock"
        env = {"LIFL_ADMIN_SOCKET": str(self.path), "LIFL_METRICS_HOST": "127.0.0.1"}
        self.health = Health(self.path, answer=0.3)
        self.web = Web(AgentSettings.from_env(env), self.health)
        self.hung = threading.Event()
        self._loop: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def start_loop(self) -> None:
        self._loop = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._loop.bind(os.fspath(self.path))
        self._loop.listen()
        self._start(self._accept, self._loop)

    def _start(self, target: object, sock: socket.socket) -> None:
        self._threads.append(threading.Thread(target=target, args=(sock,)))  # type: ignore[arg-type]
        self._threads[-1].start()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listening.accept()
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        answers = {
            "info": {"pid": 1},
            "endpoints": {"endpoints": []},
            "pools": {"pools": {}},
            "counters": {"drops": {"no_route": 3}, "events": {}},
        }
        with contextlib.suppress(OSError, WireError), sock:
            while (message := framing.receive(sock)) is not None:
                if not self.hung.is_set():
                    framing.send(sock, {"ok": True, **answers[message.body["op"]]})

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.web.port, timeout=WAIT)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def close(self) -> None:
        self.web.close()
        if self._loop is not None:
            self._loop.shutdown(socket.SHUT_RDWR)
            self._loop.close()
        for thread in self._threads:
            thread.join(WAIT)


@pytest.fixture
def world(tmp_path: Path, no_leaks: None) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_ready_only_when_attached_and_listening(world: World) -> None:
    assert world.get("/healthz")[0] == world.get("/readyz")[0] == 503
    world.health.waiting_for = "the data plane to be attached"
    assert world.get("/readyz") == (503, "the agent waits for the data plane to be attached\n")
    world.start_loop()
    assert world.get("/healthz") == (200, "ok\n")
    assert world.get("/readyz")[0] == 503
    world.health.waiting_for = ""
    assert world.get("/readyz") == (200, "ok\n")
    assert world.get("/readyz?verbose") == (200, "ok\n")
    world.health.waiting_for = "its successor"
    assert world.get("/readyz")[0] == 503


def test_a_loop_that_hangs_is_found_out(world: World) -> None:
    world.start_loop()
    world.health.waiting_for = ""
    assert world.get("/healthz")[0] == 200
    world.hung.set()
    for path in ("/healthz", "/readyz"):
        began = time.monotonic()
        status, text = world.get(path)
        assert (status, "does not answer within 0.3 s" in text) == (503, True)
        assert time.monotonic() - began < 5.0
    world.hung.clear()
    assert world.get("/healthz")[0] == 200


def test_metrics_or_why_there_are_none(world: World) -> None:
    status, text = world.get("/metrics")
    assert (status, "no agent answers" in text) == (503, True)
    world.start_loop()
    status, text = world.get("/metrics")
    assert status == 200
    assert 'lifl_drops_total{reason="no_route"} 3.0' in text


def test_nothing_else_is_there(world: World) -> None:
    world.start_loop()
    assert world.get("/")[0] == world.get("/metrics/x")[0] == 404
    assert world.get("/healthz", "POST")[0] == 501
    assert world.get("/healthz", "HEAD") == (200, "")


def test_a_probe_is_answered_in_a_crowd_of_the_slow(world: World) -> None:
    world.start_loop()
    crowd = []
    for _ in range(web.LIMIT + 20):
        crowd.append(socket.create_connection(("127.0.0.1", world.web.port), WAIT))
        crowd[-1].sendall(b"GET /metr")
    assert world.get("/healthz")[0] == 200
    for sock in crowd:
        sock.close()


def test_garbage_is_harmless(world: World) -> None:
    world.start_loop()
    for junk in (b"\0" * 100, b"GET\r\n\r\n", b"x" * 100_000, b"GET / HTTP/9.9\r\n\r\n"):
        with (
            socket.create_connection(("127.0.0.1", world.web.port), WAIT) as sock,
            contextlib.suppress(OSError),  # it may be cut off early
        ):
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
    assert world.get("/healthz")[0] == 200
