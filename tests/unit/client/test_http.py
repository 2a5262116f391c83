"""The small HTTP client: answers become values or one of two kinds of error."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lifl.client.http import HttpClient, HttpError, NotRouted
from lifl.client.retry import was_answered
from lifl.errors import ConfigError, Unavailable

PROBLEM = {"code": "round-closed", "detail": "too late", "where": "round"}
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/p/ok": (200, {}, b'{"a": 1}'),
    "/p/empty": (202, {}, b""),
    "/p/conflict": (409, {}, json.dumps(PROBLEM).encode()),
    "/p/absent": (404, {}, b'{"code": "no-such-job"}'),
    "/p/plain": (404, {}, b"<html>"),
    "/p/busy": (503, {"Retry-After": "7"}, b"{}"),
    "/p/dated": (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""),
    "/p/no-json": (200, {}, b"hello"),
    "/p/bytes": (200, {}, bytes(range(256)) * 20),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str], bytes]]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.path, dict(self.headers), body))
        status, headers, payload = ANSWERS[self.path]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def seen() -> list[tuple[str, dict[str, str], bytes]]:
    return []


@pytest.fixture
def client(seen: list[Any]) -> Iterator[HttpClient]:
    handler = type("Handler", (Handler,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        found = HttpClient(f"http://127.0.0.1:{server.server_port}/p/", lambda: "secret")
        yield found
        found.close()
        server.shutdown()
        thread.join()


def test_json_both_ways_with_the_present_token(client: HttpClient, seen: list[Any]) -> None:
    assert client.json("POST", "/ok", {"x": None}) == {"a": 1}
    path, headers, body = seen[0]
    assert (path, headers["Authorization"], json.loads(body)) == (
        "/p/ok",
        "Bearer secret",
        {"x": None},
    )
    assert client.json("GET", "/empty") is None


def test_a_refusal_keeps_its_problem(client: HttpClient) -> None:
    with pytest.raises(HttpError, match="too late") as caught:
        client.json("GET", "/conflict")
    error = caught.value
    assert (error.status, error.code, error.where) == (409, "round-closed", "round")
    with pytest.raises(HttpError, match="HTTP 404"):
        client.json("GET", "/absent")


def test_a_404_of_something_else_may_pass(client: HttpClient) -> None:
    with pytest.raises(NotRouted, match="URL is wrong") as caught:
        client.json("GET", "/plain")
    assert not was_answered(caught.value)


@pytest.mark.parametrize(("path", "seconds"), [("/busy", 7.0), ("/dated", 1.0), ("/no-json", 1.0)])
def test_what_may_work_later(client: HttpClient, path: str, seconds: float) -> None:
    with pytest.raises(Unavailable) as caught:
        client.json("GET", path)
    assert caught.value.retry_after == seconds


def test_a_body_goes_into_memory_of_its_length(client: HttpClient) -> None:
    raw = ANSWERS["/p/bytes"][2]
    target = bytearray(len(raw))
    client.read_into("GET", "/bytes", memoryview(target))
    assert target == raw
    for wrong in (len(raw) - 1, len(raw) + 1):
        with pytest.raises(Unavailable, match="another length"):
            client.read_into("GET", "/bytes", memoryview(bytearray(wrong)))
    with pytest.raises(HttpError):
        client.read_into("GET", "/conflict", memoryview(target))


def test_buffers_are_sent_without_joining_them(client: HttpClient, seen: list[Any]) -> None:
    client.request("POST", "/ok", body=[b"ab", memoryview(b"cd")], headers={"Content-Length": "4"})
    assert seen[0][2] == b"abcd"


def test_nobody_there() -> None:
    with HttpClientAt(1) as client, pytest.raises(Unavailable, match="no answer"):
        client.json("GET", "/x")


class HttpClientAt:
    def __init__(self, port: int) -> None:
        self.client = HttpClient(f"http://127.0.0.1:{port}", timeout=0.5)

    def __enter__(self) -> HttpClient:
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()


def test_an_ingress_is_connected_to_and_the_url_is_asked_for(
    client: HttpClient, seen: list[Any]
) -> None:
    ingress = client.base_url.removeprefix("http://").removesuffix("/p")
    other = HttpClient("http://gateway.lifl.example.com/p", ingress=ingress)
    assert other.json("GET", "/ok") == {"a": 1}
    assert seen[-1][1]["Host"] == "gateway.lifl.example.com"
    other.close()


def test_an_ingress_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        HttpClient("http://gateway.lifl.example.com", ingress=":80")
