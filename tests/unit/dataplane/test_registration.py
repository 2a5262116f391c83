"""What a function says to the agent when it comes and when it goes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifl.dataplane import framing
from lifl.dataplane.registration import Registration
from lifl.dataplane.relay import Relay
from lifl.errors import RegistrationError
from lifl.store import Pool, PoolGeometry
from lifl.wire import Kind


class Agent:
    """Registers whoever comes, once; everybody else is given up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[dict[str, Any]] = []
        self._heard = threading.Condition()
        self._relay = Relay()
        self._pool = Pool.create("digits", PoolGeometry(4, 4096, 4096))
        self._connections: list[socket.socket] = []
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(os.fspath(path))
        self._listening.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listening.accept()
                self._connections.append(sock)
                self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
                self._threads[-1].start()
        except OSError:
            return

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            while (message := framing.receive(sock)) is not None:
                framing.close_all(message.fds)
                with self._heard:
                    self.said.append(message.body)
                    self._heard.notify_all()
                if message.body["op"] == "register":
                    self._register(sock)

    def _register(self, sock: socket.socket) -> None:
        if sum(m["op"] == "register" for m in self.said) > 1:
            framing.send(sock, {"ok": False, "code": "fenced", "detail": "given up"})
            return
        plugs = self._relay.plug(1, 1, Kind.AGGREGATOR)
        reply = {"ok": True, "endpoint": 1, "lane": 64, "domain": 1, "dataplane": "socket"}
        framing.send(sock, reply, (self._pool.fd, *plugs))
        framing.close_all(plugs)

    def hears(self, count: int) -> list[dict[str, Any]]:
        with self._heard:
            assert self._heard.wait_for(lambda: len(self.said) >= count, 10)
        return self.said

    def drop(self) -> None:
        """End every connection, as an agent that is replaced."""
        for sock in self._connections:
            sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listening.close()
        self._relay.close()
        self._pool.close()


@pytest.fixture
def agent(tmp_path: Path, no_leaks: None) -> Iterator[Agent]:
    made = Agent(tmp_path / "agent.sock")
    yield made
    made.close()


@pytest.fixture
def opened(agent: Agent) -> Callable[..., Registration]:
    def open_one(**options: Any) -> Registration:
        return Registration.open(
            agent.path, kind="aggregator", name="a", domain="digits", **options
        )

    return open_one


def test_it_shows_its_token_once(agent: Agent, opened: Callable[..., Registration]) -> None:
    registration = opened(token="a.b.c")
    registration.close()
    came, gone = agent.hears(2)
    assert came["token"] == "a.b.c"
    assert gone == {"op": "bye"}


def test_whoever_has_no_token_shows_none(agent: Agent, opened: Callable[..., Registration]) -> None:
    opened().close()
    assert agent.hears(2)[0]["token"] == ""


def test_one_that_was_given_up_says_goodbye_all_the_same(
    agent: Agent, opened: Callable[..., Registration]
) -> None:
    registration = opened(token="a.b.c")
    agent.drop()
    with pytest.raises(RegistrationError):
        registration.resume(timeout=5.0)
    registration.close()
    _, back, gone = agent.hears(3)
    assert (back["resume"], "token" in back) == (1, False)
    assert gone == {"op": "bye", "endpoint": 1}


def test_a_goodbye_to_nobody_is_no_error(agent: Agent, opened: Callable[..., Registration]) -> None:
    registration = opened()
    agent.drop()
    agent.path.unlink()
    registration.close()
