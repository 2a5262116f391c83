"""Lines, counts and replies over a real socket pair, however they are cut."""

from __future__ import annotations

import itertools
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare.vanilla import resp, web
from bench.compare.vanilla.dispatcher import _next
from bench.compare.vanilla.event import Event
from bench.compare.vanilla.stream import PIECE, Ended, Stream


class Kept:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, data, /) -> None:
        self.pieces.append(bytes(data))


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    with left, Stream(right) as stream:
        yield left, stream


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(c % len(data) for c in cuts)})
    return [data[i:j] for i, j in itertools.pairwise(at)]


@given(st.lists(st.integers(0, 10_000), max_size=6))
def test_an_entry_is_read_however_it_comes(cuts):
    entry = (
        b"*1\r\n*2\r\n$9\r\ntrigger:a\r\n*1\r\n*2\r\n$3\r\n5-0\r\n*4\r\n"
        b'$5\r\nabout\r\n$12\r\n{"id":"abc"}\r\n$4\r\ndata\r\n$7\r\npay\r\nlo\r\n+OK\r\n'
    )
    left, right = socket.socketpair()
    with left, Stream(right) as stream:
        for piece in _cut(entry, cuts):
            left.sendall(piece)
        assert _next(stream) == (b"5-0", Event({"id": "abc"}, 7))
        kept = Kept()
        stream.pump(7, kept)
        assert b"".join(kept.pieces) == b"pay\r\nlo"
        assert stream.exactly(2) == b"\r\n"
        assert resp.read(stream) == b"OK"


def test_no_entry_is_none(ends):
    left, stream = ends
    left.sendall(b"*-1\r\n")
    assert _next(stream) is None


def test_an_entry_of_somebody_else_is_refused(ends):
    left, stream = ends
    left.sendall(
        b"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n5-0\r\n*2\r\n$1\r\nk\r\n$1\r\nv\r\n:1\r\n"
    )
    with pytest.raises(resp.RedisError, match="no event"):
        _next(stream)


def test_replies(ends):
    left, stream = ends
    left.sendall(b":7\r\n$-1\r\n*2\r\n$1\r\na\r\n*-1\r\n-OOM not so much\r\n?\r\n")
    assert resp.read(stream) == 7
    assert resp.read(stream) is None
    assert resp.read(stream) == [b"a", None]
    with pytest.raises(resp.RedisError, match="OOM not so much"):
        resp.read(stream)
    with pytest.raises(resp.RedisError, match="no reply"):
        resp.read(stream)


def test_commands():
    assert resp.command("GET", b"k", 12) == b"*3\r\n$3\r\nGET\r\n$1\r\nk\r\n$2\r\n12\r\n"
    assert resp.opened("SET", "k") + resp.bulk(3) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\n"


def test_a_payload_larger_than_the_buffer_passes_in_pieces(ends):
    left, stream = ends
    payload = bytes(range(256)) * (5 * PIECE // 512)
    sender = threading.Thread(target=left.sendall, args=(payload + b"rest",))
    sender.start()
    kept = Kept()
    stream.pump(len(payload), kept)
    sender.join()
    assert b"".join(kept.pieces) == payload
    assert max(map(len, kept.pieces)) <= PIECE
    assert stream.exactly(4) == b"rest"


def test_a_payload_that_breaks_off_is_an_error(ends):
    left, stream = ends
    left.sendall(b"half")
    left.shutdown(socket.SHUT_WR)
    with pytest.raises(Ended, match="4 bytes were to follow"):
        stream.pump(8, Kept())


def test_heads_there_and_back(ends):
    left, stream = ends
    left.sendall(web.request("/x", 5, {"ce-Id": "a: b"}))
    assert web.read_head(stream) == (
        "POST /x HTTP/1.1",
        {"host": "function", "content-length": "5", "connection": "close", "ce-id": "a: b"},
    )
    left.sendall(web.response(202, {"A": "b"}, b"body"))
    assert web.read_response(stream)[0] == 202
    assert stream.exactly(4) == b"body"
    left.sendall(b"HTTP\r\n\r\n")
    with pytest.raises(ValueError, match="no response"):
        web.read_response(stream)


def test_an_endless_line_is_refused(ends):
    left, stream = ends
    sender = threading.Thread(target=left.sendall, args=(b"x" * 200_000,))
    sender.start()
    with pytest.raises(ValueError, match="longer than"):
        stream.line()
    stream.exactly(200_000)
    sender.join()
