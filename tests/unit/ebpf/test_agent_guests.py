"""A crowd of strangers keeps nobody out."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from ebpf.agent.guests import Guest, Guests, listener
from lifl.errors import Unavailable

WAIT = 10.0


def connect(guests: Guests) -> socket.socket:
    return socket.create_connection(("127.0.0.1", guests.port), WAIT)


def echo(guest: Guest) -> None:
    """Whoever says "k" is known."""
    guest.sock.settimeout(None)
    while raw := guest.sock.recv(1):
        guest.known = guest.known or raw == b"k"
        guest.sock.sendall(raw)


def house(serve: Callable[[Guest], None], limit: int) -> Guests:
    guests = Guests("test", listener("127.0.0.1", 0), serve, limit)
    guests.start()
    return guests


def say(sock: socket.socket, word: bytes) -> None:
    sock.sendall(word)
    assert sock.recv(1) == word


def test_the_oldest_stranger_goes_and_who_is_known_stays(no_leaks: None) -> None:
    guests = house(echo, 3)
    known = connect(guests)
    say(known, b"k")
    strangers = []
    for _ in range(10):
        strangers.append(connect(guests))
        say(strangers[-1], b"x")
    for gone in strangers[:8]:
        assert gone.recv(1) == b""
    for there in (known, *strangers[8:]):
        say(there, b"y")
    guests.close()
    for sock in (known, *strangers):
        assert sock.recv(1) == b""
        sock.close()


def test_among_known_ones_the_most_silent_goes(no_leaks: None) -> None:
    guests = house(echo, 2)
    one, two = connect(guests), connect(guests)
    say(one, b"k")
    say(two, b"k")
    three = connect(guests)
    say(three, b"k")
    assert one.recv(1) == b""
    say(two, b"y")
    guests.close()
    for sock in (one, two, three):
        sock.close()


def test_a_guest_that_fails_harms_no_other(no_leaks: None) -> None:
    def fail(guest: Guest) -> None:
        if guest.sock.recv(1) == b"!":
            raise KeyError("what a surprise")
        guest.sock.sendall(b"fine")

    guests = house(fail, 2)
    with connect(guests) as bad, connect(guests) as good:
        bad.sendall(b"!")
        assert bad.recv(1) == b""
        good.sendall(b".")
        assert good.recv(4) == b"fine"
    guests.close()


def test_one_that_was_never_opened_is_closed(no_leaks: None) -> None:
    Guests("test", listener("127.0.0.1", 0), echo).close()


def test_a_port_in_use_is_said() -> None:
    with listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port}"):
            listener("127.0.0.1", port)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("host", ["", "::"])
def test_every_address_is_both_kinds(host: str, no_leaks: None) -> None:
    guests = Guests("test", listener(host, 0), echo)
    guests.start()
    for address in ("127.0.0.1", "::1"):
        with socket.create_connection((address, guests.port), WAIT) as sock:
            say(sock, b"x")
    guests.close()
