"""The switch for machines where the kernel cannot route: a thread in the agent does.

Why: without root or BPF the platform behaves the same, only slower. The rules are
in :mod:`lifl.dataplane.router`; this moves the bytes. It must not wait for a receiver:
one whose queue is full is passed over in a group and refused otherwise.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from lifl.dataplane.api import MAX_DRAIN, Counters
from lifl.dataplane.channels import SEQUENCE, VERDICT, take_sockets
from lifl.dataplane.router import Endpoint, Group, Router
from lifl.errors import ConfigError, NotDelivered, RegistrationError, Unavailable
from lifl.wire import (
    DESCRIPTOR_BYTES,
    Descriptor,
    DropReason,
    Kind,
    RouteType,
    Share,
    check_group,
)

QUEUE_BYTES = 4 << 20
"""Asked for as a receiver's queue; the system's net.core.wmem_max may give less."""
_MESSAGE_BYTES = SEQUENCE.size + DESCRIPTOR_BYTES
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


@dataclass(frozen=True, slots=True)
class _Port:
    """The agent's ends of one endpoint's two pairs, named as the function names them."""

    endpoint: int
    tx: socket.socket
    rx: socket.socket


class Relay:
    """A :class:`lifl.dataplane.api.Switch` that routes in a thread of this process."""

    name = "socket"

    def __init__(self) -> None:
        self._router = Router()
        self._ports: dict[int, _Port] = {}
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._stop_here, self._stop_there = socket.socketpair()
        self._selector.register(self._stop_here, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="lifl-relay", daemon=True)
        self._thread.start()

    def plug(self, endpoint: int, domain: int, kind: Kind) -> tuple[int, ...]:
        """Return sending end, receiving end and duplicates of the agent's ends."""
        with self._lock:
            if endpoint in self._ports:
                raise ConfigError(f"endpoint {endpoint} is in use")
            try:
                tx, agent_tx = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                rx, agent_rx = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                fds = (os.dup(agent_tx.fileno()), os.dup(agent_rx.fileno()))
            except OSError as e:
                raise Unavailable(f"no sockets for endpoint {endpoint}: {e}") from e
            agent_rx.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
            self._add(_Port(endpoint, agent_tx, agent_rx), domain)
            return tx.detach(), rx.detach(), *fds

    def adopt(self, endpoint: int, domain: int, kind: Kind, fds: Sequence[int]) -> None:
        """Take the agent's ends back from the function; its queues are as they were."""
        brought = _packet_sockets(fds)
        with self._lock:
            used = endpoint in self._ports
            if not used:
                self._add(_Port(endpoint, *brought[2:]), domain)
        for s in brought if used else brought[:2]:
            s.close()
        if used:
            raise RegistrationError(f"endpoint {endpoint} is in use: register anew")

    def unplug(self, endpoint: int) -> None:
        """Cut both pairs, for the holders of duplicates as well."""
        with self._lock:
            port = self._ports.pop(endpoint, None)
            self._router.endpoints.pop(endpoint, None)
            if port is not None:
                self._hang_up(port)

    def set_route(self, endpoint: int, type: RouteType, target: int) -> None:
        """Say where an endpoint's descriptors go."""
        with self._lock:
            if endpoint in self._router.endpoints:
                self._router.endpoints[endpoint].route = (type, target)

    def set_group(self, group: int, members: Sequence[Share], cycle: int = 0) -> None:
        """Say who is in a group; senders begin anew with the first when ``cycle`` is another."""
        check_group(group, members)
        with self._lock:
            self._router.groups[group] = Group(tuple(members), cycle)

    def del_group(self, group: int) -> None:
        """Forget a group."""
        with self._lock:
            self._router.groups.pop(group, None)

    def inject(self, endpoint: int, d: Descriptor) -> None:
        """Put a descriptor of the agent's own into an endpoint's queue."""
        with self._lock:
            reason = self._offer(endpoint, d.pack())
        if reason is not DropReason.NONE:
            raise NotDelivered(f"endpoint {endpoint} takes nothing: {reason.name}", reason=reason)

    def counters(self) -> dict[int, Counters]:
        """Return the counters of every endpoint."""
        with self._lock:
            return self._router.counters()

    def drops(self) -> dict[DropReason, int]:
        """Return the drops by reason."""
        with self._lock:
            return dict(self._router.drops)

    def close(self) -> None:
        """Stop the thread and close the agent's ends; the functions keep theirs."""
        self._stop_there.close()
        self._thread.join()
        self._selector.close()
        self._stop_here.close()
        for port in self._ports.values():
            port.tx.close()
            port.rx.close()

    def _add(self, port: _Port, domain: int) -> None:
        self._ports[port.endpoint] = port
        self._router.endpoints[port.endpoint] = Endpoint(domain)
        self._selector.register(port.tx, selectors.EVENT_READ, port)

    def _hang_up(self, port: _Port) -> None:
        with contextlib.suppress(KeyError):  # the thread does not watch the dead
            self._selector.unregister(port.tx)
        for end in (port.tx, port.rx):
            end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                port: _Port | None = key.data
                if port is None:
                    return
                with self._lock:
                    if self._ports.get(port.endpoint) is port:
                        self._serve(port)

    def _serve(self, port: _Port) -> None:
        """Route what waits, but not for ever: others wait as well."""
        for _ in range(MAX_DRAIN):
            try:
                raw = port.tx.recv(_MESSAGE_BYTES + 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                raw = b""
            if not raw:
                self._selector.unregister(port.tx)  # the function is gone; the agent unplugs it
                return
            sequence, message = int.from_bytes(raw[: SEQUENCE.size], "little"), raw[SEQUENCE.size :]
            reason = self._router.route(port.endpoint, message, self._offer)
            with contextlib.suppress(OSError):  # a sender that takes no verdict harms itself
                port.tx.send(VERDICT.pack(sequence, reason), _FLAGS)

    def _offer(self, endpoint: int, raw: bytes) -> DropReason:
        port = self._ports.get(endpoint)
        if port is None:
            return DropReason.DESTINATION_GONE
        try:
            port.rx.send(raw, _FLAGS)
        except BlockingIOError:
            return DropReason.DESTINATION_FULL
        except OSError:
            return DropReason.DESTINATION_GONE
        return DropReason.NONE


def _packet_sockets(fds: Sequence[int]) -> list[socket.socket]:
    """Own ``fds``; raises RegistrationError unless they are four UNIX packet sockets."""
    try:
        found = take_sockets(fds)
    except OSError as e:
        raise RegistrationError(f"these are not an endpoint's sockets: {e}") from e
    if len(found) != 4 or any(
        (s.family, s.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET) for s in found
    ):
        for s in found:
            s.close()
        raise RegistrationError("an endpoint's sockets are four UNIX packet sockets")
    return found
