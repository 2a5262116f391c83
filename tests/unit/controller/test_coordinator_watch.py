"""The watch of the coordinator: it calls nobody before it was begun, and survives its hearers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from controller.coordinator import Coordinator

SECRET = b"s" * 32


class Handler(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        raw = json.dumps({"rev": type(self).asked, "jobs": [], "nodes": ["n"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    handler = type("Once", (Handler,), {"asked": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        found.daemon_threads = True
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_nobody_is_told_before_the_watch_was_begun(server: ThreadingHTTPServer) -> None:
    told = threading.Event()
    watched = Coordinator(f"http://127.0.0.1:{server.server_port}", SECRET, told.set)
    assert not told.wait(0.2)
    assert watched.world() is None
    watched.start()
    assert told.wait(5)
    world = watched.world()
    assert world is not None and world.nodes == ("n",)
    watched.close()


def test_a_hearer_that_fails_does_not_make_it_deaf(
    server: ThreadingHTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    calls = threading.Semaphore(0)

    def hear() -> None:
        calls.release()
        raise AttributeError("not there yet")

    watched = Coordinator(f"http://127.0.0.1:{server.server_port}", SECRET, hear)
    watched.start()
    for _ in range(3):
        assert calls.acquire(timeout=5)
    watched.close()
    assert "goes on after an error" in caplog.text
