"""Questions whose head goes ahead: sent when said, connections kept, nothing asked twice."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lifl.client import ahead
from lifl.client.ahead import Asker
from lifl.client.http import HttpError, raise_for_status
from lifl.errors import Unavailable

PATIENCE = 10.0


class Server(ThreadingHTTPServer):
    """Says when a head came and what body followed; closes connections if told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heads: queue.Queue[tuple[str, dict[str, str]]] = queue.Queue()
        self.bodies: queue.Queue[bytes] = queue.Queue()
        self.opened = 0
        self.status, self.last, self.silent = 200, False, False

    def get_request(self) -> tuple[socket.socket, Any]:
        self.opened += 1
        return super().get_request()

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that a test closed."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/p/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        told = self.server
        told.heads.put((self.path, dict(self.headers)))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        told.bodies.put(body)
        self.close_connection = told.last or told.silent
        if told.silent:
            return
        answer = json.dumps({"code": "told", "detail": "as asked"}).encode()
        self.send_response(told.status)
        self.send_header("Content-Length", str(len(answer)))
        if told.last:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def asker(server: Server) -> Iterator[Asker]:
    made = Asker(server.url, lambda: "secret", timeout=PATIENCE, connections=2)
    yield made
    made.close()


def ask(asker: Asker, body: bytes = b"{}") -> ahead.Answer:
    return asker.begin("/q", len(body)).finish(body)


def test_the_head_is_there_before_the_body_is_known(server: Server, asker: Asker) -> None:
    question = asker.begin("/claims", 7)
    path, headers = server.heads.get(timeout=PATIENCE)
    assert (path, headers["Authorization"]) == ("/p/claims", "Bearer secret")
    assert (headers["Content-Length"], headers["Content-Type"]) == ("7", "application/json")
    assert server.bodies.empty()
    answer = question.finish(b'{"a":1}')
    assert (answer.status, json.loads(answer.data)["code"]) == (200, "told")
    assert server.bodies.get_nowait() == b'{"a":1}'


def test_a_connection_serves_one_question_after_the_other(server: Server, asker: Asker) -> None:
    assert not asker.at_hand
    for _ in range(3):
        ask(asker)
        assert asker.at_hand
    assert server.opened == 1


def test_only_so_many_connections_are_kept(server: Server, asker: Asker) -> None:
    for question in [asker.begin("/q", 2) for _ in range(4)]:
        question.finish(b"{}")
    assert server.opened == 4
    again = [asker.begin("/q", 2) for _ in range(2)]
    assert not asker.at_hand
    for question in again:
        question.finish(b"{}")
    assert server.opened == 4


def test_a_connection_that_idled_long_is_not_trusted(
    server: Server, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(asker)
    monkeypatch.setattr(ahead, "IDLE_SECONDS", 0.0)
    ask(asker)
    assert server.opened == 2


def test_a_connection_that_the_server_ends_is_not_kept(server: Server, asker: Asker) -> None:
    server.last = True
    ask(asker)
    assert not asker.at_hand


def test_a_question_that_was_given_up_was_not_asked(server: Server, asker: Asker) -> None:
    question = asker.begin("/q", 2)
    question.give_up()
    with pytest.raises(Unavailable, match="given up"):
        question.finish(b"{}")
    assert not asker.at_hand
    assert server.bodies.get(timeout=PATIENCE) == b""  # the server saw the end, and no body


def test_no_answer_is_an_error_and_is_not_asked_again(server: Server, asker: Asker) -> None:
    server.silent = True
    with pytest.raises(Unavailable, match="no answer"):
        ask(asker)
    assert (server.heads.qsize(), asker.at_hand) == (1, False)


def test_when_one_connection_breaks_the_idle_ones_are_not_trusted(
    server: Server, asker: Asker
) -> None:
    """A server that was restarted ended them all; to find out one by one would take long."""
    for question in [asker.begin("/q", 2) for _ in range(2)]:
        question.finish(b"{}")
    server.silent = True
    with pytest.raises(Unavailable):
        ask(asker)
    assert not asker.at_hand
    server.silent = False
    assert ask(asker).status == 200
    assert server.opened == 3


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable, match="could not be sent"):
        Asker(f"http://127.0.0.1:{port}", None, timeout=1.0, connections=1).begin("/q", 2)


def test_an_answers_status_means_the_same_as_elsewhere(server: Server, asker: Asker) -> None:
    raise_for_status(ask(asker))
    server.status = 409
    with pytest.raises(HttpError, match="as asked") as refused:
        raise_for_status(ask(asker))
    assert (refused.value.status, refused.value.code) == (409, "told")
    server.status = 503
    with pytest.raises(Unavailable):
        raise_for_status(ask(asker))
