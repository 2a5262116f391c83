"""The agent's event loop: two sockets, their connections, processes that end, a timer.

Why: one thread does everything, so no two decisions overlap; whatever takes long
is not done here. It must not decide: messages go to Membership and Operations.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ebpf.agent.edge import RefusedError
from ebpf.agent.identity import Identity
from ebpf.agent.membership import Membership
from ebpf.agent.node import Node
from ebpf.agent.operations import Operations
from ebpf.agent.peers import Process
from ebpf.agent.registry import Endpoint
from ebpf.agent.sweeper import Sweeper
from lifl.dataplane import framing
from lifl.errors import WireError
from lifl.store import SlotRef

log = logging.getLogger("lifl.agent")

MAX_STRANGERS = 256
"""Connections that have not registered yet; more are turned away."""
_CRED = struct.Struct("iII")


@dataclass(slots=True, eq=False)
class _Connection:
    sock: socket.socket
    process: Process | None
    """The peer, until an endpoint owns it."""
    endpoint: Endpoint | None = None


class Server:
    """Serves one node until :meth:`stop`. Is the Edge of its Membership."""

    def __init__(self, node: Node, platform_uids: frozenset[int], identity: Identity) -> None:
        self.node = node
        self.membership = Membership(node, self, time.monotonic, identity)
        self._sweeper = Sweeper(node, self.membership)
        self._operations = Operations(node, self.membership)
        self._platform_uids = platform_uids
        self._selector = selectors.DefaultSelector()
        self._connections: dict[Endpoint, _Connection] = {}
        self._strangers = 0
        self._running = True
        self._listeners: list[tuple[socket.socket, Path]] = []
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._on(self._woken, partial(self._drain, self._woken))

    # -- life ---------------------------------------------------------------------------

    def listen(self) -> None:
        """Open both sockets: registration for everybody, administration for the owner."""
        settings = self.node.settings
        self._listen(settings.agent_socket, 0o666, self._accept_function)
        self._listen(settings.admin_socket, 0o600, self._accept_admin)

    def _listen(self, path: Path, mode: int, accept: Callable[[socket.socket], None]) -> None:
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        old = os.umask(0o177)
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(old)
        path.chmod(mode)
        sock.setblocking(False)
        sock.listen(128)
        self._listeners.append((sock, path))
        self._on(sock, partial(self._accept, sock, accept))

    def stop_on(self, *signals: signal.Signals) -> None:
        """End :meth:`run` when one of ``signals`` comes."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda *_: self.stop())

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._running = False

    def run(self) -> None:
        """Serve."""
        next_tick = time.monotonic()
        while self._running:
            for key, _ in self._selector.select(max(0.0, next_tick - time.monotonic())):
                key.data()
            now = time.monotonic()
            next_tick = min(next_tick, now + self._sweeper.pause)
            if now >= next_tick:
                self._sweeper.tick(now)
                next_tick = time.monotonic() + self._sweeper.pause

    def close(self) -> None:
        """Close every connection and socket; the paths are removed."""
        for sock, path in self._listeners:
            sock.close()
            path.unlink(missing_ok=True)
        for key in tuple(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._waker.close()

    # -- the loop -------------------------------------------------------------------------

    def _on(self, source: socket.socket | int, act: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, act)

    @staticmethod
    def _drain(sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            sock.recv(4096)

    def watch(self, endpoint: Endpoint) -> None:
        """See Edge."""
        if endpoint.process.pidfd >= 0:
            self._on(endpoint.process.pidfd, partial(self.membership.died, endpoint))

    def unwatch(self, endpoint: Endpoint) -> None:
        """See Edge."""
        if endpoint.process.pidfd >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(endpoint.process.pidfd)

    def hang_up(self, endpoint: Endpoint) -> None:
        """See Edge."""
        connection = self._connections.pop(endpoint, None)
        if connection is not None:
            connection.endpoint = None
            self._close(connection)

    # -- connections ------------------------------------------------------------------------

    @staticmethod
    def _accept(listener: socket.socket, accept: Callable[[socket.socket], None]) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as e:  # the peer left, or no descriptor is free
            log.warning("a connection was lost before it was accepted: %s", e)
            return
        sock.setblocking(False)
        accept(sock)

    def _accept_function(self, sock: socket.socket) -> None:
        if self._strangers >= MAX_STRANGERS:
            log.warning("a connection is turned away: %d wait to register", self._strangers)
            sock.close()
            return
        try:
            connection = _Connection(sock, Process.of_peer(sock))
        except OSError as e:  # it is gone, or in a PID namespace the agent cannot see
            log.warning("a connection is turned away: %s", e)
            sock.close()
            return
        self._strangers += 1
        self._on(sock, partial(self._serve_function, connection))

    def _accept_admin(self, sock: socket.socket) -> None:
        cred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CRED.size)
        if _CRED.unpack(cred)[1] not in self._platform_uids:
            sock.close()
            return
        self._on(sock, partial(self._serve_admin, _Connection(sock, None)))

    def _receive(self, connection: _Connection) -> framing.Message | None:
        try:
            return framing.receive(connection.sock)
        except (OSError, WireError) as e:
            log.warning("a connection is closed: %s", e)
            return None

    def _reply(self, connection: _Connection, body: dict[str, Any], fds: tuple[int, ...]) -> None:
        try:
            framing.send(connection.sock, body, fds)
        except (OSError, WireError) as e:  # the peer is gone or does not read
            log.warning("a reply was not delivered: %s", e)
            self._end(connection)

    def _serve_admin(self, connection: _Connection) -> None:
        message = self._receive(connection)
        if message is None:
            self._end(connection)
            return
        framing.close_all(message.fds)
        self._reply(connection, self._operations.perform(message.body), ())

    def _serve_function(self, connection: _Connection) -> None:
        message = self._receive(connection)
        if message is None:
            self._end(connection)
        elif connection.endpoint is None:
            self._register(connection, message)
        else:
            framing.close_all(message.fds)
            self._told(connection, connection.endpoint, message.body)

    def _told(self, connection: _Connection, endpoint: Endpoint, body: dict[str, Any]) -> None:
        match body:
            case {"op": "ready"}:
                self.membership.ready(endpoint)
            case {"op": "dispatch", "slot": int(slot), "generation": int(generation)}:
                self.node.dispatch(endpoint.domain, [SlotRef(slot, generation)])
            case {"op": "bye"}:
                self.membership.goodbye(endpoint)
            case _:
                log.warning("%s sent %.80r and is cut off", endpoint.name, body)
                self._end(connection)

    def _register(self, connection: _Connection, message: framing.Message) -> None:
        process, body, fds = connection.process, message.body, message.fds
        plugs: tuple[int, ...] = ()
        if process is None or body.get("op") != "register":
            framing.close_all(fds)
            match body:
                case {"op": "bye", "endpoint": int(number)} if process is not None:
                    self.membership.farewell(process, number)
            self._end(connection)
            return
        try:
            if isinstance(body.get("resume"), int):
                fds, taken = [], fds
                endpoint = self.membership.resume(process, body, taken)
            else:
                endpoint, plugs = self.membership.register(process, body)
        except RefusedError as e:
            self.node.events["refusals"] += 1
            reply = {"ok": False, "code": e.code, "detail": e.detail, "again": e.again}
            self._reply(connection, reply, ())
            return
        finally:
            framing.close_all(fds)
        self._strangers -= 1
        connection.process, connection.endpoint = None, endpoint
        self._replace(endpoint, connection)
        pool = endpoint.domain.pool
        rights = (pool.fd, *plugs) if pool is not None and plugs else ()
        self._reply(connection, {"ok": True, **self._description(endpoint)}, rights)
        framing.close_all(plugs)

    def _replace(self, endpoint: Endpoint, connection: _Connection) -> None:
        self.hang_up(endpoint)
        self._connections[endpoint] = connection

    def _description(self, endpoint: Endpoint) -> dict[str, Any]:
        return {
            "endpoint": endpoint.number,
            "lane": endpoint.lane,
            "domain": endpoint.domain.number,
            "dataplane": self.node.switch.name,
        }

    def _end(self, connection: _Connection) -> None:
        endpoint, connection.endpoint = connection.endpoint, None
        if endpoint is None:
            if connection.process is not None:
                self._strangers -= 1
        else:
            self._connections.pop(endpoint, None)
        self._close(connection)
        if endpoint is not None:
            self.membership.lost(endpoint)

    def _close(self, connection: _Connection) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.sock.close()
        if connection.process is not None:
            connection.process.close()
            connection.process = None
