"""How an administrator's requests reach an agent: a UNIX socket, or TLS from another node.

Why: the operations are the same (:mod:`lifl.dataplane.admin`), and so is what a
broken connection means: the agent was restarted, and since every operation may be
repeated, a request is put again once. It must not know an operation.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from lifl.dataplane import framing, streams
from lifl.dataplane.tls import AGENT_NAME
from lifl.errors import Unavailable, WireError


class Transport(ABC):
    """One connection, made when it is needed. For one thread at a time.

    ``where`` names the agent in errors; ``timeout`` is in seconds.
    """

    def __init__(self, where: str, timeout: float) -> None:
        self._where = where
        self._timeout = timeout
        self._sock: socket.socket | None = None

    def exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to ``request``.

        Raises
        ------
        WireError
            if the request is too long for a message.
        Unavailable
            if no agent answers in time.
        """
        raw = framing.encode(request)
        fresh = self._sock is None
        try:
            return self._exchange_once(raw)
        except (OSError, WireError) as e:
            self.close()
            if fresh or isinstance(e, TimeoutError):
                raise self._unavailable(e) from e
        try:  # the agent was restarted since the last call
            return self._exchange_once(raw)
        except (OSError, WireError) as e:
            self.close()
            raise self._unavailable(e) from e

    def close(self) -> None:
        """Close the connection; the next exchange makes another."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _unavailable(self, e: Exception) -> Unavailable:
        return Unavailable(f"no agent answers at {self._where}: {e}")

    def _exchange_once(self, raw: bytes) -> dict[str, Any]:
        if self._sock is None:
            self._sock = self._connect()
        answer = self._ask(self._sock, raw)
        if answer is None:
            raise ConnectionResetError("the agent closed the connection")
        return answer

    @abstractmethod
    def _connect(self) -> socket.socket:
        """Return a new connection; raises OSError."""

    @abstractmethod
    def _ask(self, sock: socket.socket, raw: bytes) -> dict[str, Any] | None:
        """Send a request, return the answer; None if the agent ended the connection."""


class UnixTransport(Transport):
    """To the agent of this machine, by the path of its admin socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__(str(path), timeout)
        self._path = path

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.settimeout(self._timeout)
            sock.connect(os.fspath(self._path))
        except OSError:
            sock.close()
            raise
        return sock

    def _ask(self, sock: socket.socket, raw: bytes) -> dict[str, Any] | None:
        sock.sendmsg([raw], [], socket.MSG_NOSIGNAL)
        message = framing.receive(sock)
        if message is None:
            return None
        framing.close_all(message.fds)
        return message.body


class TlsTransport(Transport):
    """To the agent of any node; ``context`` is the controller's (:mod:`lifl.dataplane.tls`)."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(f"{host}:{port}", timeout)
        self._address = (host, port)
        self._context = context

    def _connect(self) -> socket.socket:
        plain = socket.create_connection(self._address, self._timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._context.wrap_socket(plain, server_hostname=AGENT_NAME)
        except BaseException:
            plain.close()
            raise

    def _ask(self, sock: socket.socket, raw: bytes) -> dict[str, Any] | None:
        deadline = time.monotonic() + self._timeout
        sock.settimeout(self._timeout)
        streams.send(sock, raw)
        left = max(deadline - time.monotonic(), 1e-3)
        answer = streams.receive(sock, left, idle=left)
        return None if answer is None else framing.decode(answer)
