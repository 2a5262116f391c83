"""A small gateway with faults to order, on a loopback socket."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from safetensors.numpy import save

from lifl.client import Backoff, FederatedClient, Retry

Fault = Callable[["Handler"], bool]


class FakeGateway:
    """Serves one job. ``tasks`` are given out in turn (the last one stays);
    ``faults`` are tried on each request and may answer in the gateway's place."""

    def __init__(self) -> None:
        self.model = save(
            {"w": np.arange(50_000, dtype=np.float32), "n": np.array(3, dtype=np.int64)}
        )
        self.version = 7
        self.tasks: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.uploads: list[tuple[str, dict[str, str], bytes]] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answer: tuple[int, dict[str, Any]] = (202, {"serial": 11, "duplicate": False})
        self.port = 0
        self.connections: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        gateway = self

        class Bound(Handler):
            fake = gateway

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Bound)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def task(self, number: int, state: str = "open", **other: Any) -> None:
        """Append the answer to the next poll."""
        self.tasks.append(
            {
                "job": "digits",
                "round": number,
                "version": self.version,
                "state": state,
                "selected": True,
                "model_url": f"/v1/jobs/digits/model?version={self.version}",
                "upload_url": f"{self.url}/v1/jobs/digits/rounds/{number}/updates",
                "deadline_seconds": None,
                "your_update": "none",
                "update_type": "weights",
                "client_config": {"epochs": 2},
                **other,
            }
        )

    def paths(self, method: str) -> list[str]:
        return [path for m, path, _ in self.requests if m == method]

    def polls(self) -> list[dict[str, str]]:
        found = [urlsplit(p) for p in self.paths("GET") if "rounds/current" in p]
        return [{k: v[0] for k, v in parse_qs(p.query).items()} for p in found]


class Handler(BaseHTTPRequestHandler):
    fake: FakeGateway
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.fake.connections.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def _faulty(self) -> bool:
        self.fake.requests.append((self.command, self.path, dict(self.headers)))
        return any(fault(self) for fault in self.fake.faults)

    def do_GET(self) -> None:
        if self._faulty():
            return
        if "rounds/current" in self.path:
            tasks = self.fake.tasks
            self.json(200, tasks.pop(0) if len(tasks) > 1 else tasks[0])
            return
        etag = f'"digits-{self.fake.version}"'
        if self.headers.get("If-None-Match") == etag:
            self.send_response(304)
            self.end_headers()
            return
        begin = 0
        if self.headers.get("If-Range") == etag:
            begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if begin else 200)
        self.send_header("ETag", etag)
        self.send_header("LIFL-Model-Version", str(self.fake.version))
        self.send_header("Content-Length", str(len(self.fake.model) - begin))
        self.end_headers()
        self.wfile.write(self.fake.model[begin:])

    def do_POST(self) -> None:
        if self._faulty():
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.fake.uploads.append((self.path, dict(self.headers), body))
        self.json(*self.fake.answer)

    def json(self, status: int, document: dict[str, Any], **headers: str) -> None:
        raw = json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def cut(self) -> None:
        """Close the connection without another word."""
        self.close_connection = True


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake = FakeGateway()
    yield fake
    fake.stop()


@pytest.fixture
def pauses() -> list[float]:
    """The pauses a client made."""
    return []


@pytest.fixture
def join(gateway: FakeGateway, pauses: list[float]) -> Iterator[Callable[..., FederatedClient]]:
    """Make a client that notes its pauses; times out after 60 s of them."""
    made: list[FederatedClient] = []
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    def make(**options: Any) -> FederatedClient:
        retry = Retry(
            patience=60.0,
            backoff=Backoff(base=1.0, cap=8.0),
            sleep=sleep,
            clock=lambda: now,
            draw=lambda: 1.0,
        )
        options = {"retry": retry, "timeout": 5.0, "poll_seconds": 0.0, **options}
        made.append(FederatedClient(gateway.url, job="digits", client="c1", token="t", **options))
        return made[-1]

    yield make
    for client in made:
        client.close()
