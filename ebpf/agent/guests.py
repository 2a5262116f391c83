"""Connections from the network, each in a thread beside the event loop, only so many at once.

Why: what comes over TCP may be slow, silent or hostile, and the loop must not wait
for it. When there are too many the one that is worth least is cut off: a stranger
who has been there longest, else whoever has been silent longest. So a crowd
of strangers keeps nobody out who says who he is in time.

It must not know a protocol, and threads must not touch what belongs to the loop.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from lifl.errors import Unavailable

LIMIT = 64
BACKLOG = 128
CLOSE_SECONDS = 5.0
_PAUSE = 0.1

log = logging.getLogger("lifl.agent")


def listener(host: str, port: int) -> socket.socket:
    """Return a listening socket; an empty host is every address of the machine.

    Raises
    ------
    Unavailable
        if it cannot be had.
    """
    if host in {"", "::"} and socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # the machine may have IPv6 and no address of it
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
            )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as e:
        raise Unavailable(f"cannot listen on {host or 'any address'}, port {port}: {e}") from e


class Guest:
    """One connection. ``peer`` is its address, for logs."""

    def __init__(self, sock: socket.socket, peer: str, lock: threading.Lock) -> None:
        self.sock = sock
        self.peer = peer
        self.known = False
        """Whether it has shown who it is."""
        self.heard = time.monotonic()
        """When it last said something, or came."""
        self._lock = lock

    def become(self, wrap: Callable[[socket.socket], socket.socket]) -> None:
        """Go on with ``wrap(sock)``, which owns the connection from then on."""
        with self._lock:
            self.sock = wrap(self.sock)

    def cut(self) -> None:
        """End the connection under its thread; the caller holds the lock."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # not TLS's own, which waits

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self.sock.close()


class Guests:
    """Serves every connection to ``listening``, which it owns, until :meth:`close`.

    ``serve(guest)`` is called in a thread for each; the connection is closed when it
    returns or raises.
    """

    def __init__(
        self,
        name: str,
        listening: socket.socket,
        serve: Callable[[Guest], None],
        limit: int = LIMIT,
    ) -> None:
        self.port: int = listening.getsockname()[1]
        self._name = name
        self._listening = listening
        self._serve = serve
        self._limit = limit
        self._lock = threading.Lock()
        self._guests: set[Guest] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._door = threading.Thread(target=self._accept, name=f"{name}-door", daemon=True)

    def start(self) -> None:
        """Let guests in."""
        self._door.start()

    def close(self) -> None:
        """Cut all off, and wait a moment for their threads."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # ends accept()
        deadline = time.monotonic() + CLOSE_SECONDS
        if self._door.ident is not None:
            self._door.join(CLOSE_SECONDS)
        self._listening.close()
        with self._lock:
            for guest in self._guests:
                guest.cut()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, address = self._listening.accept()
            except OSError as e:  # the peer left, or no descriptor is free
                if not self._closing:
                    log.warning("%s: a connection was lost before it was accepted: %s", self, e)
                    time.sleep(_PAUSE)
                continue
            self._admit(Guest(sock, f"{address[0]}:{address[1]}", self._lock))

    def _admit(self, guest: Guest) -> None:
        thread = threading.Thread(
            target=self._host, args=(guest,), name=f"{self._name}-guest", daemon=True
        )
        with self._lock:
            if len(self._guests) >= self._limit:
                least = min(self._guests, key=lambda g: (g.known, g.heard))
                self._guests.remove(least)  # its thread ends by itself
                least.cut()
            self._guests.add(guest)
        try:
            thread.start()
        except RuntimeError as e:
            log.warning("%s: no thread for %s: %s", self, guest.peer, e)
            self._forget(guest)
            return
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]

    def _host(self, guest: Guest) -> None:
        try:
            self._serve(guest)
        except Exception:
            log.exception("%s: serving %s failed", self, guest.peer)
        finally:
            self._forget(guest)

    def _forget(self, guest: Guest) -> None:
        with self._lock:
            self._guests.discard(guest)
        guest.close()

    def __str__(self) -> str:
        return self._name
