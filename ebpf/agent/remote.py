"""The admin operations for the controller of a cluster: over mutual TLS, from any node.

Why: the loop serves its UNIX admin socket only, from one thread and without waiting.
What comes over the network is let in here: whoever shows the controller's
certificate has each of his requests handed on over that socket, as it is.

It must not understand a request, and must not let anybody in for less than the
certificate: another one of the same authority, such as an agent's, is refused.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from ebpf.agent.guests import Guest, Guests
from lifl.dataplane import framing, streams
from lifl.dataplane.tls import CONTROLLER_NAME, dns_names
from lifl.errors import Unavailable, WireError

HANDSHAKE_SECONDS = 5.0
REQUEST_SECONDS = 10.0
"""How long a request may take from its first byte to its last, and its answer to leave."""
LOOP_SECONDS = 60.0
_KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
"""A controller whose node is lost says no goodbye: found out within two minutes."""
_LOG_SECONDS = 1.0
_LINGER_SECONDS = 1.0

log = logging.getLogger("lifl.agent")


class RemoteAdmin:
    """Serves the controller on ``listening``.

    ``context`` returns the TLS context for a new connection
    (:class:`lifl.dataplane.tls.Certificates`); without one connections are closed.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: Callable[[], ssl.SSLContext],
        admin_socket: Path,
        *,
        handshake: float = HANDSHAKE_SECONDS,
        request: float = REQUEST_SECONDS,
    ) -> None:
        self._context = context
        self._admin_socket = admin_socket
        self._handshake = handshake
        self._request = request
        self._guests = Guests("remote-admin", listening, self._serve)
        self._quiet_until = 0.0
        self._unsaid = 0

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return self._guests.port

    def start(self) -> None:
        """Serve, until :meth:`close`."""
        self._guests.start()

    def close(self) -> None:
        """End all connections."""
        self._guests.close()

    def _serve(self, guest: Guest) -> None:
        try:
            sock = self._shake_hands(guest)
        except (OSError, ValueError, Unavailable) as e:
            self._say_refused(guest, str(e))
            _let_read(guest)
            return
        names = dns_names(sock.getpeercert())
        try:
            if CONTROLLER_NAME in names:
                guest.known = True
                self._hand_on(guest, sock)
            else:
                self._turn_away(guest, sock, names)
        except (OSError, WireError) as e:
            log.warning("remote admin: the connection of %s is closed: %s", guest.peer, e)

    def _shake_hands(self, guest: Guest) -> ssl.SSLSocket:
        context = self._context()
        guest.sock.settimeout(self._handshake)
        guest.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        guest.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            guest.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        guest.become(
            lambda plain: context.wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False
            )
        )
        assert isinstance(guest.sock, ssl.SSLSocket)
        guest.sock.do_handshake()  # its timeout is for the whole
        if guest.sock.session_reused:  # of TLS 1.2: the certificate was not verified again
            raise ConnectionRefusedError("it wants to resume a session")
        return guest.sock

    def _hand_on(self, guest: Guest, sock: ssl.SSLSocket) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as loop:
            loop.settimeout(LOOP_SECONDS)
            loop.connect(os.fspath(self._admin_socket))
            while (request := streams.receive(sock, self._request, idle=None)) is not None:
                guest.heard = time.monotonic()
                loop.sendmsg([request], [], socket.MSG_NOSIGNAL)
                answer = loop.recv(framing.MAX_BYTES)
                if not answer:  # the loop takes no such request, or ends
                    return
                sock.settimeout(self._request)
                streams.send(sock, answer)

    def _turn_away(self, guest: Guest, sock: ssl.SSLSocket, names: frozenset[str]) -> None:
        shown = ", ".join(sorted(names)[:4])[:200] or "no name"
        self._say_refused(guest, f"its certificate is for {shown}, not for {CONTROLLER_NAME}")
        if streams.receive(sock, self._request, idle=self._request) is not None:
            detail = f"your certificate is for {shown}; the agent serves {CONTROLLER_NAME} only"
            streams.send(sock, framing.encode({"ok": False, "detail": detail}))

    def _say_refused(self, guest: Guest, why: str) -> None:
        """Log it, but not at the pace of whoever knocks."""
        now = time.monotonic()
        if now < self._quiet_until:
            self._unsaid += 1
            return
        more, self._unsaid, self._quiet_until = self._unsaid, 0, now + _LOG_SECONDS
        others = f" ({more} others in between)" if more else ""
        log.warning("remote admin: %s is not let in%s: %s", guest.peer, others, why)


def _let_read(guest: Guest) -> None:
    """Let a refused peer read why: closed with unread bytes, a connection forgets the last ones."""
    deadline = time.monotonic() + _LINGER_SECONDS
    with contextlib.suppress(OSError):
        socket.socket.shutdown(guest.sock, socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            guest.sock.settimeout(left)
            if not socket.socket.recv(guest.sock, 1 << 16):
                return
