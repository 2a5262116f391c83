"""Client processes: they send when they are told to, what they are told to."""

from __future__ import annotations

import socket
import time

import pytest

from bench.clients import Clients

LATE = 1.0
"""Seconds; a busy machine may hold the early one up for a while."""


def _receive(listener: socket.socket, nbytes: int) -> bytes:
    """Return what one client sends, and close: it waits for that."""
    listener.settimeout(20.0)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(20.0)
        return connection.recv(nbytes, socket.MSG_WAITALL)


@pytest.mark.usefixtures("no_leaks")
def test_each_sends_at_its_time_and_its_own_body() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Clients(2, b"document") as clients,
    ):
        request = ("127.0.0.1", listener.getsockname()[1], b"")
        clients.start([request])
        assert _receive(listener, 8) == b"document"
        (sent,) = clients.wait()
        start = time.monotonic()
        clients.start([request] * 2, at=[start + LATE, 0.0], bodies=[b"late", b"early"])
        assert [_receive(listener, 5), _receive(listener, 4)] == [b"early", b"late"]
        late, early = clients.wait()
    assert late.started >= start + LATE
    assert early.started < late.started
    assert sent.status == 0
