"""Connections within a machine are not paced, whatever the system's congestion control is."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from functions.gateway import gunicorn_conf
from lifl import congestion
from lifl.client.http import HttpClient

UNPACED = b"reno"


def control(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.fixture
def usual() -> bytes:
    with socket.socket() as sock:
        return control(sock)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1", "[::1]"])
def test_this_machine(host: str) -> None:
    assert congestion.options(host) == [(socket.IPPROTO_TCP, socket.TCP_CONGESTION, UNPACED)]


@pytest.mark.parametrize("host", ["", "0.0.0.0", "10.0.0.1", "gateway.example.com", "2001:db8::1"])
def test_other_machines_are_left_to_the_system(host: str) -> None:
    assert congestion.options(host) == []


def test_where_the_system_does_not_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "TCP_CONGESTION", 999)  # no such option, which is an OSError
    congestion._unpaced.cache_clear()
    try:
        assert congestion.options("127.0.0.1") == []
        monkeypatch.delattr(socket, "TCP_CONGESTION")
        congestion._unpaced.cache_clear()
        assert congestion.options("127.0.0.1") == []
    finally:
        congestion._unpaced.cache_clear()


@pytest.mark.parametrize(
    ("url", "ingress", "expected"),
    [
        ("http://127.0.0.1:{port}", "", UNPACED),
        ("http://localhost:{port}", "", UNPACED),
        ("http://gateway.example.com", "127.0.0.1:{port}", UNPACED),
        ("http://{name}:{port}", "", None),
    ],
)
@pytest.mark.parametrize("by_reference", [True, False])
def test_a_clients_connections(
    url: str, ingress: str, expected: bytes | None, by_reference: bool, usual: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, name = listener.getsockname()[1], "127.0.0.1.nip.invalid"
        client = HttpClient(
            url.format(port=port, name=name),
            ingress=ingress.format(port=port),
            by_reference=by_reference,
        )
        connection = client._pool._new_conn()
        if expected is None:  # the name is nobody's: who listens is here all the same
            connection._dns_host = "127.0.0.1"
        connection.connect()
        try:
            assert isinstance(connection.sock, socket.socket)
            assert control(connection.sock) == (expected or usual)
            assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        finally:
            connection.close()
            client.close()


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", UNPACED), ("0.0.0.0", None)])
def test_what_a_gateway_accepts(
    host: str, expected: bytes | None, usual: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunicorn_conf, "host", host)
    with socket.create_server((host, 0)) as listener:
        gunicorn_conf.when_ready(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)]))
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
            accepted, _ = listener.accept()
            with accepted:
                assert control(accepted) == (expected or usual)
