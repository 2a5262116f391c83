"""POST requests whose head is sent ahead and whose body follows, as cheaply as can be.

Why: while one waits for what the body is to say, the server can parse the head, check who
asks and stand ready. That wants a connection in one's hand, which the general client
(:mod:`lifl.client.http`) keeps to itself; and it is for the few questions everybody
waits for, so it does without the general client's comfort.

It must not try anything twice: whoever asks knows whether that is safe.
"""

from __future__ import annotations

import time
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple
from urllib.parse import urlsplit

from lifl.client.http import Token
from lifl.errors import Unavailable

IDLE_SECONDS = 30.0
"""A connection that was unused for longer may be closed by the server any moment."""


class Answer(NamedTuple):
    """An answer's status, headers (in any case) and body."""

    status: int
    headers: Message
    data: bytes


class Asker:
    """One server's kept-alive connections for questions; ``timeout`` in seconds."""

    def __init__(self, base_url: str, token: Token, *, timeout: float, connections: int) -> None:
        url = urlsplit(base_url)
        self._make = HTTPSConnection if url.scheme == "https" else HTTPConnection
        self._host, self._port = url.hostname or "", url.port
        self._prefix = url.path.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._connections = connections
        self._idle: list[tuple[float, HTTPConnection]] = []

    @property
    def at_hand(self) -> bool:
        """Whether a connection is open, so that :meth:`begin` does not wait for one."""
        return bool(self._idle)

    def begin(self, path: str, length: int) -> Question:
        """Send the head of a POST of ``length`` bytes of JSON; raises Unavailable."""
        connection = self._connection()
        try:
            connection.putrequest("POST", self._prefix + path, skip_accept_encoding=True)
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(length))
            token = self._token() if callable(self._token) else self._token
            if token:
                connection.putheader("Authorization", f"Bearer {token}")
            connection.endheaders()
        except (HTTPException, OSError) as e:
            self.broke(connection)
            raise Unavailable(f"POST {path} could not be sent: {e}") from e
        return Question(self, connection, path)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop()[1].close()

    def _connection(self) -> HTTPConnection:
        while self._idle:
            since, connection = self._idle.pop()
            if time.monotonic() - since < IDLE_SECONDS:
                return connection
            connection.close()
        return self._make(self._host, self._port, timeout=self._timeout)

    def broke(self, connection: HTTPConnection) -> None:
        """Give up a connection that failed, and the idle ones: a server that is gone is for all."""
        connection.close()
        self.close()

    def keep(self, connection: HTTPConnection) -> None:
        """Take a connection back that can serve another question."""
        if len(self._idle) < self._connections:
            self._idle.append((time.monotonic(), connection))
        else:
            connection.close()


class Question:
    """A POST whose head is sent. Finish it or give it up."""

    def __init__(self, asker: Asker, connection: HTTPConnection, path: str) -> None:
        self._asker = asker
        self._connection = connection
        self._path = path
        self._given_up = False

    def give_up(self) -> None:
        """Close the connection; the server has not been asked."""
        self._given_up = True
        self._connection.close()

    def finish(self, body: bytes) -> Answer:
        """Send the body and return the answer, whatever its status.

        Raises
        ------
        Unavailable
            if there was no answer. The server may have been asked all the same, unless the
            question was given up before.
        """
        if self._given_up:
            raise Unavailable(f"POST {self._path} was given up")
        try:
            self._connection.send(body)
            with self._connection.getresponse() as response:
                answer = Answer(response.status, response.headers, response.read())
                last = response.will_close
        except (HTTPException, OSError) as e:
            self._asker.broke(self._connection)
            raise Unavailable(f"POST {self._path} got no answer: {e}") from e
        if last:
            self._connection.close()
        else:
            self._asker.keep(self._connection)
        return answer
