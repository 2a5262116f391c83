"""Messages over a byte stream: whole ones come, anything else ends the connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.dataplane import streams
from lifl.dataplane.framing import MAX_BYTES
from lifl.errors import WireError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.integers(1, 7))
def test_messages_come_whole_however_they_are_cut(messages: list[bytes], size: int) -> None:
    raw = b"".join(streams.LENGTH.pack(len(m)) + m for m in messages)

    def post(sock: socket.socket) -> None:
        for at in range(0, len(raw), size):
            sock.sendall(raw[at : at + size])
        sock.close()

    here, there = socket.socketpair()
    with here:
        thread = threading.Thread(target=post, args=(there,))
        thread.start()
        got = []
        while (message := streams.receive(here, 5.0, idle=5.0)) is not None:
            got.append(message)
        thread.join()
    assert got == messages


def test_what_is_sent_is_received(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    longest = b"x" * MAX_BYTES
    thread = threading.Thread(target=streams.send, args=(here, longest))
    thread.start()
    assert streams.receive(there, 5.0, idle=5.0) == longest
    thread.join()


@pytest.mark.parametrize("length", [0, MAX_BYTES + 1, 0xFFFFFFFF])
def test_a_length_is_not_trusted(pair: tuple[socket.socket, socket.socket], length: int) -> None:
    here, there = pair
    here.sendall(streams.LENGTH.pack(length) + b"x")
    with pytest.raises(WireError, match=str(length)):
        streams.receive(there, 5.0, idle=5.0)


@pytest.mark.parametrize("raw", [b"\0", b"\0\0\0\5", b"\0\0\0\5abcd"])
def test_an_end_within_a_message_is_an_error(
    pair: tuple[socket.socket, socket.socket], raw: bytes
) -> None:
    here, there = pair
    here.sendall(raw)
    here.close()
    with pytest.raises(ConnectionResetError):
        streams.receive(there, 5.0, idle=5.0)


def test_silence_and_dripping_have_an_end(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    with pytest.raises(TimeoutError):
        streams.receive(there, 5.0, idle=0.05)
    stop = threading.Event()

    def drip() -> None:
        here.sendall(streams.LENGTH.pack(1000))
        while not stop.wait(0.02):
            here.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        streams.receive(there, 0.3, idle=5.0)
    assert time.monotonic() - began < 2.0
    stop.set()
    thread.join()
