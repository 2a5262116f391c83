"""Client processes for the figures: each holds its bytes ready and sends when told.

Why: a client's own cost (building an update, Python's HTTP layer) must not hide
the platform's, so these write the request head and then the update as ``lifl.client`` does: out
of the memory where it lies. They are real processes behind real sockets. They must not train.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import signal
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NamedTuple, Self

import urllib3

from lifl import congestion
from lifl.client.splice import Splicer

MP = mp.get_context("fork")


class Sent(NamedTuple):
    """What one client saw: CLOCK_MONOTONIC seconds and the HTTP status (0 for a raw send)."""

    started: float
    last_byte: float
    answered: float
    status: int
    answer: bytes


class Clients:
    """``n`` processes with the same document; use as a context manager."""

    def __init__(self, n: int, document: bytes) -> None:
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(n):
            mine, theirs = MP.Pipe()
            process = MP.Process(target=_serve, args=(theirs, document), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            process.terminate()  # children hold copies of these pipes: closing tells nobody
            process.join()
            pipe.close()

    def start(
        self,
        requests: list[tuple[str, int, bytes]],
        *,
        at: Sequence[float] | None = None,
        bodies: Sequence[bytes] | None = None,
    ) -> None:
        """Let client *i* send ``(host, port, head)`` *i*; an empty head is a raw send.

        ``at`` says when each begins (CLOCK_MONOTONIC seconds; now, if that is past or not
        said), ``bodies`` what it sends instead of its document.
        """
        for i, (pipe, request) in enumerate(zip(self._pipes, requests, strict=False)):
            pipe.send((*request, at[i] if at else 0.0, bodies[i] if bodies else None))
        self._busy = len(requests)

    def wait(self) -> list[Sent]:
        """Return what the clients that were started saw."""
        return [pipe.recv() for pipe in self._pipes[: self._busy]]


def head(
    host: str,
    port: int,
    path: str,
    nbytes: int,
    headers: dict[str, str] | None = None,
    *,
    name: str = "",
) -> bytes:
    """Return the head of a POST of ``nbytes`` that closes the connection afterwards.

    ``name`` is the Host to ask for where that is not who is connected to.
    """
    lines = [f"POST {path} HTTP/1.1", f"Host: {name or f'{host}:{port}'}"]
    lines += [f"Content-Length: {nbytes}"]
    lines += ["Content-Type: application/vnd.safetensors", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _serve(pipe: Connection, document: bytes) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what the harness does about it
    while True:
        host, port, request_head, at, body = pipe.recv()
        if (ahead := at - time.monotonic()) > 0:
            time.sleep(ahead)  # this client's update is not there before
        pipe.send(_send(host, port, request_head, body or document))


def _send(host: str, port: int, request_head: bytes, document: bytes) -> Sent:
    started = time.monotonic()
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *congestion.options(host)]
    with urllib3.util.connection.create_connection((host, port), socket_options=options) as sock:
        if request_head:
            sock.sendall(request_head)
        with contextlib.closing(Splicer(sock)) as splicer:
            splicer.send(document)
        last_byte = time.monotonic()
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    status = int(answer.split(b" ", 2)[1]) if request_head else 0
    return Sent(started, last_byte, time.monotonic(), status, answer)
