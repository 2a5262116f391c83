"""LIFL on a cluster as a side: ways in, and a round against a coordinator of a few lines."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bench import harness
from bench.compare import mean
from bench.compare.api import Load
from bench.compare.knative.kube import ClusterError
from bench.compare.knative.lifl_side import ClusterLifl
from bench.compare.knative.ways import Way
from tests.unit.bench.compare.knative.doubles import FakeKube

DOCUMENT = harness.model_document(8_000)
LOAD = Load("burst-3", "8kb", 3, (0.0,) * 3)
PODS = ("-n", "lifl", "pods", "-l", "lifl.dev/function=aggregator")


class Gateway(ThreadingHTTPServer):
    """Opens a round when the one before has all updates; its model is what the first one sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.round, self.lock = 1, threading.Lock()
        self.samples: list[int] = []
        self.hosts: set[str] = set()
        self.model = b""
        self.rows: list[dict[str, int]] = []
        self.lose = 0


class _Handler(BaseHTTPRequestHandler):
    server: Gateway
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.server.model = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(201)

    def do_POST(self) -> None:
        s = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with s.lock:
            s.hosts.add(self.headers["Host"])
            s.samples.append(int(self.headers["LIFL-Num-Samples"]))
            s.model = body
            if len(s.samples) == LOAD.clients:
                s.rows.append(
                    {
                        "round": s.round,
                        "aggregated": LOAD.clients - s.lose,
                        "samples": sum(s.samples),
                    }
                )
                s.samples.clear()
                s.round += 1
        self._answer(202)

    def do_GET(self) -> None:
        s = self.server
        if "/rounds/current" in self.path:
            work = {
                "state": "open",
                "round": s.round,
                "upload_url": f"http://gateway.lifl.test/v1/jobs/j/rounds/{s.round}/updates",
            }
            return self._answer(200, json.dumps(work).encode())
        if self.path.endswith("/history"):
            return self._answer(200, json.dumps({"rounds": s.rows}).encode())
        found = re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert found
        first, last = map(int, found.groups())
        return self._answer(206, s.model[first : last + 1])


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def cluster() -> FakeKube:
    class WithSecret(FakeKube):
        def get(self, *arguments: str) -> dict[str, Any]:
            if arguments[2] == "secret":
                assert arguments[3].endswith("-key")
                return {"data": {"auth_key": base64.b64encode(b"ab" * 32).decode()}}
            return super().get(*arguments)

    pod = {"metadata": {"uid": "1", "name": "a"}, "spec": {"nodeName": "n1"}}
    return WithSecret({PODS: {"items": [pod]}})


def test_rounds(gateway: Gateway) -> None:
    kube = cluster()
    way = Way("http://gateway.lifl.test", f"127.0.0.1:{gateway.server_address[1]}")
    with ClusterLifl(LOAD, DOCUMENT, way=way, kube=kube) as side:
        for _ in range(2):
            done = side.play()
            assert (done.updates, done.created, done.nodes) == (3, 0, 1)
            assert 0 < done.last_byte <= done.wall
    assert gateway.hosts == {"gateway.lifl.test"}
    assert [r["samples"] for r in gateway.rows] == [mean.all_samples(3)] * 2
    (job,) = kube.applied
    assert job["spec"]["clients"] == {"perRound": 3, "minimum": 3, "selection": "all"}
    assert kube.ran[-1][2:4] == ("delete", "federatedjob")
    assert kube.ran[-1][4] == job["metadata"]["name"]


def test_an_update_that_is_not_in_the_mean_is_found_out(gateway: Gateway) -> None:
    gateway.lose = 1
    way = Way("http://gateway.lifl.test", f"127.0.0.1:{gateway.server_address[1]}")
    with (
        ClusterLifl(LOAD, DOCUMENT, way=way, kube=cluster()) as side,
        pytest.raises(RuntimeError, match="3 updates were sent"),
    ):
        side.play()


def test_a_cluster_without_lifl_is_told_so() -> None:
    kube = cluster()
    kube.apis.remove("lifl.dev/v1alpha1")
    with pytest.raises(ClusterError, match="LIFL is not installed"):
        ClusterLifl(LOAD, DOCUMENT, kube=kube).__enter__()
    assert kube.applied == []


def test_rounds_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        ClusterLifl(Load("l", "8kb", 2, (0.0, 0.0), sizes=(1, 2)), DOCUMENT, kube=FakeKube())
