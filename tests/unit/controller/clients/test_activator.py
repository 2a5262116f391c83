"""Asking activators: only while it is wanted, and one that is silent spoils nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from controller.clients.activator import MISSING, Activator, place

REVISION = ("lifl", "aggregator-00001")
LINE = 'kn_revision_request_queued{k8s_namespace_name="lifl",kn_revision_name="%s"} %d\n'
NOBODY = "http://127.0.0.1:9"


class Fake:
    """An activator's metrics."""

    def __init__(self) -> None:
        self.waiting = 0
        self.asked = threading.Semaphore(0)
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                raw = (LINE % (REVISION[1], fake.waiting)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
                fake.asked.release()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.stop()


@pytest.fixture
def start() -> Iterator[Any]:
    made: list[tuple[Activator, threading.Event]] = []

    def start(*urls: str) -> tuple[Activator, threading.Event]:
        changed = threading.Event()
        activator = Activator(lambda: urls, on_change=changed.set, period=0.01)
        activator.start()
        made.append((activator, changed))
        return activator, changed

    yield start
    for activator, _ in made:
        activator.stop()


def test_requests_are_noticed_while_somebody_wants_to_know(fake: Fake, start: Any) -> None:
    activator, changed = start(fake.url)
    assert not fake.asked.acquire(timeout=0.1), "nobody wants to know"
    activator.watch(True)
    assert fake.asked.acquire(timeout=30)
    assert activator.asked_for() == frozenset()
    fake.waiting = 1
    assert changed.wait(30)
    assert activator.asked_for() == {REVISION}
    activator.watch(False)
    assert activator.asked_for() == frozenset()


def test_a_silent_one_does_not_hide_the_others(
    fake: Fake, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fake.waiting = 1
    with caplog.at_level(logging.WARNING, "lifl.controller"):
        activator, changed = start(NOBODY, fake.url)
        activator.watch(True)
        assert changed.wait(30)
        for _ in range(5):
            fake.asked.acquire(timeout=30)
    assert activator.asked_for() == {REVISION}
    assert "config-observability" in activator.problem
    assert len(caplog.records) == 1, "it is said once"


def test_no_activator_is_said(start: Any) -> None:
    activator, _ = start()
    activator.watch(True)
    while not activator.problem:
        threading.Event().wait(0.01)
    assert activator.problem == MISSING


def test_only_ready_pods_are_asked() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    assert place({"status": {"podIP": "10.0.0.9", "conditions": ready}}) == "http://10.0.0.9:9090"
    assert place({"status": {"podIP": "fd00::9", "conditions": ready}}) == "http://[fd00::9]:9090"
    assert place({"status": {"podIP": "10.0.0.9"}}) == ""
    assert place({"status": {"conditions": ready}}) == ""
    assert place({}) == ""
