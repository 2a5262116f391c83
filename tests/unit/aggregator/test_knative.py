"""What Knative asks a pod without queue-proxy."""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time

import pytest

from functions.aggregator.knative import SCRAPERS, Knative, StatsServer
from functions.aggregator.traffic import Traffic
from lifl.errors import ConfigError


class Function:
    """A function that notes what reaches it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, object]] = []
        self.closed = 0
        self.error: Exception | None = None

    def __call__(self, environ, start_response):
        self.seen.append(environ)
        if self.error:
            raise self.error
        start_response("200 OK", [("X-Own", "1")])
        return Body(self)


class Body:
    def __init__(self, function: Function) -> None:
        self.function = function

    def __iter__(self):
        return iter([b"own ", b"answer"])

    def close(self) -> None:
        self.function.closed += 1


class Counted:
    """A traffic that keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, bool]] = []

    def enter(self, proxied: bool) -> None:
        self.events.append(("enter", proxied))

    def leave(self, proxied: bool) -> None:
        self.events.append(("leave", proxied))


class Pod:
    def __init__(self) -> None:
        self.ready = True
        self.function = Function()
        self.traffic = Counted()
        self.app = Knative(self.function, lambda: self.ready, self.traffic)

    def begin(self, path: str = "/", **headers: str):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": io.BytesIO()}
        environ |= {f"HTTP_{k}": v for k, v in headers.items()}
        self.answer: list[object] = []
        return self.app(environ, lambda status, head: self.answer.extend((status, dict(head))))

    def ask(self, path: str = "/", **headers: str) -> tuple[str, dict[str, str], bytes]:
        body = self.begin(path, **headers)
        try:
            data = b"".join(body)
        finally:
            getattr(body, "close", lambda: None)()
        return self.answer[0], self.answer[1], data


@pytest.fixture
def pod() -> Pod:
    return Pod()


@pytest.mark.parametrize("path", ["/", "/healthz", "/anything"])
def test_a_probe_of_queue_proxy_is_answered_in_its_words(pod, path):
    status, headers, body = pod.ask(path, K_NETWORK_PROBE="queue")
    assert (status, headers["Content-Length"], body) == ("200 OK", "5", b"queue")
    pod.ready = False
    status, _, body = pod.ask(path, K_NETWORK_PROBE="queue")
    assert status.startswith("503")
    assert b"queue" not in body
    assert not pod.function.seen
    assert not pod.traffic.events


@pytest.mark.parametrize("value", ["activator", "Queue", "probe", "x"])
def test_other_probes_are_refused_as_by_queue_proxy(pod, value):
    assert pod.ask(K_NETWORK_PROBE=value)[0].startswith("400")
    pod.ready = False
    assert pod.ask(K_NETWORK_PROBE=value)[0].startswith("400")
    assert not pod.function.seen


def test_an_ingress_finds_its_hash_again(pod):
    status, headers, body = pod.ask(K_NETWORK_PROBE="probe", K_NETWORK_HASH="c0ffee")
    assert (status, headers["K-Network-Hash"], body) == ("200 OK", "c0ffee", b"")
    pod.ready = False
    assert pod.ask(K_NETWORK_PROBE="probe", K_NETWORK_HASH="c0ffee")[0].startswith("503")


@pytest.mark.parametrize(
    ("headers", "proxied"),
    [({}, False), ({"K_PROXY_REQUEST": "activator"}, True), ({"K_PROXY_REQUEST": "x"}, False)],
)
def test_requests_pass_unchanged_and_are_counted(pod, headers, proxied):
    body = pod.begin("/v1", K_ORIGINAL_HOST="a.example", HOST="10.0.0.9:8012", **headers)
    assert pod.traffic.events == [("enter", proxied)]
    assert b"".join(body) == b"own answer"
    assert pod.answer == ["200 OK", {"X-Own": "1"}]
    assert pod.function.seen[0]["HTTP_HOST"] == "10.0.0.9:8012"
    assert pod.traffic.events == [("enter", proxied)], "it ends when the last byte is out"
    body.close()
    assert pod.function.closed == 1
    body.close()
    assert pod.traffic.events == [("enter", proxied), ("leave", proxied)]


def test_a_failing_function_is_counted_out(pod):
    pod.function.error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        pod.ask("/v1")
    assert pod.traffic.events == [("enter", False), ("leave", False)]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/healthz", {}),
        ("/readyz", {}),
        ("/metrics", {}),
        ("/_/health", {}),
        ("/v1", {"USER_AGENT": "kube-probe/1.36"}),
        ("/v1", {"K_KUBELET_PROBE": "queue"}),
    ],
)
def test_platforms_questions_reach_the_function_uncounted(pod, path, headers):
    assert pod.ask(path, **headers)[2] == b"own answer"
    assert not pod.traffic.events


def test_where_nobody_asks_nothing_is_counted_and_the_response_is_the_functions_own():
    function = Function()
    app = Knative(function, lambda: True, None)
    body = app({"PATH_INFO": "/"}, lambda *_: None)
    assert type(body) is Body


# -- the stats port ---------------------------------------------------------------------


@pytest.fixture
def server(no_leaks) -> StatsServer:
    traffic = Traffic()
    made = StatsServer("127.0.0.1", 0, "agg-1", traffic)
    made.start()
    yield made
    made.stop()
    deadline = time.monotonic() + 5
    while any("process_request_thread" in t.name for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_scraper_gets_a_stat_message(server):
    connection = http.client.HTTPConnection(*server.server_address, timeout=5)
    for _ in range(3):  # one connection, as the autoscaler's
        connection.request("GET", "/metrics", headers={"Accept": "application/protobuf"})
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("Content-Type") == "application/protobuf"
        assert answer.read().startswith(b"\x0a\x05agg-1")
    connection.request("GET", "/other")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 404
    connection.close()


def test_idle_connections_do_not_keep_scrapers_out_for_ever(server, monkeypatch):
    idle = [socket.create_connection(server.server_address) for _ in range(SCRAPERS + 4)]
    try:
        idle[-1].settimeout(5)
        assert idle[-1].recv(1) == b"", "more connections than threads"
    finally:
        for s in idle:
            s.close()
    deadline = time.monotonic() + 5
    while True:
        connection = http.client.HTTPConnection(*server.server_address, timeout=5)
        try:
            connection.request("GET", "/metrics")
            assert connection.getresponse().status == 200
            break
        except (ConnectionError, http.client.HTTPException):
            assert time.monotonic() < deadline
        finally:
            connection.close()


def test_a_taken_port_is_said_by_name():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"LIFL_STATS_PORT={port}.*leave the variable out"):
            StatsServer("127.0.0.1", port, "p", Traffic())
