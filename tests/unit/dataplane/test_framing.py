from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.dataplane import framing
from lifl.errors import WireError

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        yield near, far


def test_a_message_and_its_descriptors_arrive_together(pair: Pair, no_leaks: None) -> None:
    read, write = os.pipe()
    framing.send(pair[0], {"op": "x", "n": [1, None]}, (write, write))
    framing.send(pair[0], {"op": "y"})
    message = framing.receive(pair[1])
    assert message is not None
    assert message.body == {"op": "x", "n": [1, None]}
    assert len(message.fds) == 2
    assert not os.get_inheritable(message.fds[0])
    os.write(message.fds[1], b"!")
    assert os.read(read, 1) == b"!"
    framing.close_all([read, write, *message.fds])
    assert framing.receive(pair[1]) == framing.Message({"op": "y"}, [])


def test_the_end_is_none(pair: Pair) -> None:
    pair[0].close()
    assert framing.receive(pair[1]) is None


@pytest.mark.parametrize("raw", [b"\xff", b"[1]", b"{", b'"x"', b"[" * 5000])
def test_what_is_no_object_is_refused_and_its_descriptors_closed(
    pair: Pair, no_leaks: None, raw: bytes
) -> None:
    with Path(os.devnull).open() as f:
        socket.send_fds(pair[0], [raw], [f.fileno()])
    with pytest.raises(WireError, match="not"):
        framing.receive(pair[1])


def test_too_many_descriptors_are_refused_and_closed(pair: Pair, no_leaks: None) -> None:
    with Path(os.devnull).open() as f:
        socket.send_fds(pair[0], [b"{}"], [f.fileno()] * (framing.MAX_FDS + 3))
    with pytest.raises(WireError, match="at most"):
        framing.receive(pair[1])


def test_too_long_messages_are_refused_on_both_sides(pair: Pair) -> None:
    with pytest.raises(WireError, match="is the most"):
        framing.send(pair[0], {"x": "y" * framing.MAX_BYTES})
    pair[0].send(b" " * (framing.MAX_BYTES + 1))
    with pytest.raises(WireError, match="at most"):
        framing.receive(pair[1])


def test_the_longest_message_passes(pair: Pair) -> None:
    body = {"x": "y" * (framing.MAX_BYTES - len('{"x":""}'))}
    framing.send(pair[0], body)
    message = framing.receive(pair[1])
    assert message is not None
    assert message.body == body


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), _JSON, max_size=5))
def test_every_object_comes_back(body: dict[str, object]) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        framing.send(near, body)
        assert framing.receive(far) == framing.Message(body, [])
