"""Redis's protocol (RESP2) over a stream, as much as a broker needs.

Why: with a client library a payload would be held and copied several times on its way; here
commands with a payload are begun, the payload is moved by whoever has it, and replies are read
up to where a payload begins. It must not know what the payload is.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from bench.compare.vanilla.stream import Stream

Reply = int | bytes | list["Reply"] | None


class RedisError(RuntimeError):
    """Redis refused a command, and says why."""


class Address(NamedTuple):
    """Where a Redis listens on loopback, and what it asks for."""

    port: int
    password: str


def connect(address: Address) -> Stream:
    """Return a connection; raises RedisError if the password is wrong."""
    stream = Stream(socket.create_connection(("127.0.0.1", address.port)))
    try:
        ask(stream, "AUTH", address.password)
    except BaseException:
        stream.close()
        raise
    return stream


def command(*words: bytes | str | int) -> bytes:
    """Return a whole command."""
    return opened(*words, following=0)


def opened(*words: bytes | str | int, following: int = 1) -> bytes:
    """Return the beginning of a command of which ``following`` words are still to come."""
    parts = [b"*%d\r\n" % (len(words) + following)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
    return b"".join(parts)


def bulk(count: int) -> bytes:
    """Return what precedes a word of ``count`` bytes; CRLF must follow it."""
    return b"$%d\r\n" % count


def read(stream: Stream) -> Reply:
    """Return the next reply, whole.

    Raises
    ------
    RedisError
        if it is a refusal.
    """
    kind, rest = _first(stream)
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    count = int(rest)
    if count < 0:
        return None
    if kind == b"$":
        return stream.exactly(count + 2)[:-2]
    return [read(stream) for _ in range(count)]


def ask(stream: Stream, *words: bytes | str | int) -> Reply:
    """Send a command and return its reply; raises RedisError."""
    stream.sendall(command(*words))
    return read(stream)


def array(stream: Stream) -> int | None:
    """Return how many replies the array has that begins here; None: it is nothing."""
    return _count(stream, b"*")


def payload(stream: Stream) -> int:
    """Return how many bytes the string has that begins here; CRLF follows it."""
    return _count(stream, b"$") or 0


def _count(stream: Stream, expected: bytes) -> int | None:
    kind, rest = _first(stream)
    if kind != expected:
        raise RedisError(f"{kind!r} came where {expected!r} was to begin")
    count = int(rest)
    return None if count < 0 else count


def _first(stream: Stream) -> tuple[bytes, bytes]:
    line = stream.line()
    kind, rest = line[:1], line[1:]
    if kind == b"-":
        raise RedisError(rest.decode(errors="replace"))
    if kind not in (b"+", b":", b"$", b"*"):
        raise RedisError(f"{line[:40]!r} is no reply")
    return kind, rest
