"""Who may send a whole update before it is read."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from functions.gateway import gunicorn_conf
from functions.gateway.buffers import EACH, ReceiveBuffers, hold

MOST = int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@contextlib.contextmanager
def connection(listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_connection(listener.getsockname()) as client:
        accepted, _ = listener.accept()
        with accepted:
            yield client, accepted


def room(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def unread(client: socket.socket) -> int:
    """Send until nothing more goes in for a tenth of a second; return how much did."""
    client.settimeout(0.1)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += client.send(bytes(1 << 20))
    return sent


def test_a_listeners_connections_begin_with_room(listener: socket.socket) -> None:
    with connection(listener) as (_, accepted):
        before = room(accepted)
    gunicorn_conf.when_ready(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)]))
    with connection(listener) as (client, accepted):
        assert room(accepted) >= min(EACH, MOST // 2) > before
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        client.sendall(b"x")
        assert accepted.recv(10) == b"x"  # not only once all of it is full


def test_a_whole_update_may_come_in(listener: socket.socket) -> None:
    buffers, nbytes = ReceiveBuffers(), 4 * EACH
    with connection(listener) as (client, accepted):
        assert buffers.offer(accepted, nbytes)
        assert room(accepted) >= min(nbytes, MOST // 2)
        assert unread(client) >= min(nbytes, MOST // 2)


def test_so_many_at_a_time_until_they_are_gone(listener: socket.socket) -> None:
    buffers = ReceiveBuffers(2)
    with contextlib.ExitStack() as stack:
        (_, one), (_, two), (_, three) = (
            stack.enter_context(connection(listener)) for _ in range(3)
        )
        small = room(three)
        assert buffers.offer(one, 2 * EACH)
        assert not buffers.offer(one, 2 * EACH)  # has it
        assert not buffers.offer(two, EACH)  # needs none
        assert buffers.offer(two, 2 * EACH)
        assert not buffers.offer(three, 2 * EACH)
        assert room(three) == small
        del one, two
        stack.close()
    with connection(listener) as (_, four):
        assert buffers.offer(four, 2 * EACH)


def test_a_closed_connection_is_no_error(listener: socket.socket) -> None:
    with connection(listener) as (_, accepted):
        pass
    hold(accepted)
