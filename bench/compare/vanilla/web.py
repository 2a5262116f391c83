"""HTTP/1.1 as the broker speaks it: one request a connection, bodies of a known length.

Why: heads are small and parsed here; bodies are moved by whoever has them. It must not read one.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from http import HTTPStatus

from bench.compare.vanilla.stream import Stream

HEADERS_MOST = 100


def connect(host: str, port: int) -> Stream:
    """Return a connection."""
    return Stream(socket.create_connection((host, port)))


def read_head(stream: Stream) -> tuple[str, dict[str, str]]:
    """Return the first line, and the headers with names in lower case.

    Raises
    ------
    ValueError
        if it is not a head.
    """
    first = stream.line().decode("latin-1")
    headers: dict[str, str] = {}
    while line := stream.line():
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or len(headers) == HEADERS_MOST:
            raise ValueError(f"{line[:60]!r} is no header")
        headers[name.strip().lower()] = value.strip()
    return first, headers


def read_response(stream: Stream) -> tuple[int, dict[str, str]]:
    """Return status and headers of a response whose body follows."""
    first, headers = read_head(stream)
    words = first.split(" ", 2)
    if len(words) < 2 or not words[1].isdecimal():
        raise ValueError(f"{first[:60]!r} begins no response")
    return int(words[1]), headers


def request(path: str, nbytes: int, headers: Mapping[str, str], method: str = "POST") -> bytes:
    """Return the head of a request that ends its connection."""
    return _head(f"{method} {path} HTTP/1.1", {"Host": "function", **headers}, nbytes)


def response(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """Return a whole response that ends its connection."""
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    return _head(first, headers or {}, len(body)) + body


def _head(first: str, headers: Mapping[str, str], nbytes: int) -> bytes:
    lines = [first, f"Content-Length: {nbytes}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
