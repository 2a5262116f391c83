"""Lines, counts and replies over a real socket pair, however they are cut."""

from __future__ import annotations

import itertools
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare.vanilla import resp, web
from bench.compare.vanilla.dispatcher import _next
from bench.compare.vanilla.event import Event
from bench.compare.vanilla.stream import PIPE_BYTES, Ended, Stream


class Kept:
    """A stream whose other end keeps all that comes until it is closed."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        self.stream = Stream(mine)
        self._theirs = theirs
        self._found = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> bytes:
        self.stream.close()
        self._reader.join()
        return bytes(self._found)

    def _read(self) -> None:
        with self._theirs:
            while piece := self._theirs.recv(1 << 16):
                self._found += piece


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
        with Kept() as kept:
            stream.pump(7, kept.stream)
            assert kept.close() == b"pay\r\nlo"
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


def test_a_payload_larger_than_the_pipe_passes_and_what_follows_stays(ends):
    left, stream = ends
    payload = bytes(range(256)) * (5 * PIPE_BYTES // 512)
    sender = threading.Thread(target=left.sendall, args=(payload + b"rest",))
    sender.start()
    with Kept() as kept:
        stream.pump(len(payload), kept.stream)
        sender.join()
        assert kept.close() == payload
    assert stream.exactly(4) == b"rest"


def test_what_came_with_the_head_goes_first(ends):
    left, stream = ends
    left.sendall(b"line\r\npay")
    assert stream.line() == b"line"
    left.sendall(b"load, more")
    with Kept() as kept:
        stream.pump(7, kept.stream)
        stream.pump(0, kept.stream)
        assert kept.close() == b"payload"
    assert stream.exactly(6) == b", more"


def test_a_payload_that_breaks_off_is_an_error(ends):
    left, stream = ends
    left.sendall(b"half")
    left.shutdown(socket.SHUT_WR)
    with Kept() as kept:
        with pytest.raises(Ended, match="4 bytes were to follow"):
            stream.pump(8, kept.stream)
        assert kept.close() == b"half"


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_sink_that_is_gone_is_an_error_and_nothing_is_left_open(ends):
    left, stream = ends
    before = _open_files()
    mine, theirs = socket.socketpair()
    theirs.close()
    left.sendall(b"payload")
    with Stream(mine) as sink, pytest.raises(BrokenPipeError):
        stream.pump(7, sink)
    stream.close()
    assert _open_files() == before - 1  # this stream's own


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
