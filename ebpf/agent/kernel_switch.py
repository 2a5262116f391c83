"""The switch that fills the kernel's maps: ``lifl.dataplane.Switch`` over eBPF.

Why: the agent says who is who and what leads where; the kernel program routes, also
while no agent runs. This module must not know how maps are made (the loader does)
and keeps only what the maps cannot: the peer ends it injects through.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from ebpf.agent.loader import Kernel, open_kernel
from ebpf.agent.sockmap import are_a_pair, cookie, keep_loopback_up, tcp_pair
from lifl.dataplane.api import Counters
from lifl.dataplane.channels import take_sockets
from lifl.errors import ConfigError, NotDelivered, RegistrationError, Unavailable
from lifl.wire import (
    COUNTERS,
    ENDPOINT,
    GROUP,
    IDENTITY,
    MAX_MEMBERS,
    ROUTE,
    Descriptor,
    DropReason,
    Kind,
    RouteType,
    Share,
    check_group,
)

# MSG_EOR keeps descriptors apart in the send queue, so that none is ever split.
_INJECT_FLAGS = socket.MSG_EOR | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class KernelSwitch:
    """A :class:`lifl.dataplane.api.Switch` whose work is done in the kernel."""

    name = "ebpf"

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._maps = kernel.maps
        self._peers: dict[int, socket.socket] = {}
        self._adopted: set[int] = set()
        """Endpoints whose pair another agent made, maybe in the network of a pod that is gone."""
        self._lock = threading.Lock()

    @classmethod
    def open(cls, pin_dir: Path | None = None, compiled: Path | None = None) -> KernelSwitch:
        """Load the program or adopt a pinned one; raises ConfigError (see the loader)."""
        return cls(open_kernel(pin_dir, compiled))

    def plug(self, endpoint: int, domain: int, kind: Kind) -> tuple[int, ...]:
        """Return data socket and peer end."""
        with self._lock:
            if self._maps["endpoints"].lookup(endpoint) is not None:
                raise ConfigError(f"endpoint {endpoint} is in use")
            try:
                near, far = tcp_pair()
            except OSError as e:
                raise Unavailable(f"no sockets for endpoint {endpoint}: {e}") from e
            try:
                self._introduce(near, endpoint, domain, kind)
                self._maps["counters"].update(endpoint, bytes(COUNTERS.size))
                self._maps["sockets"].update(endpoint, near.fileno().to_bytes(8, "little"))
                # Shut down only now: a sockhash takes established connections. See lifl_route.c.
                near.shutdown(socket.SHUT_WR)
                self._peers[endpoint] = far.dup()
            except OSError as e:
                near.close()
                far.close()
                self._forget(endpoint)
                raise Unavailable(f"the kernel takes no endpoint {endpoint}: {e}") from e
            return near.detach(), far.detach()

    def adopt(self, endpoint: int, domain: int, kind: Kind, fds: Sequence[int]) -> None:
        """Take an endpoint back whose data socket is still in the kernel's map."""
        near, far = _tcp_ends(fds)
        with near, self._lock:
            known = self._maps["sockets"].lookup(endpoint)
            if endpoint in self._peers or known is None or known[0] != cookie(near):
                far.close()
                raise RegistrationError(
                    f"the data socket is not that of endpoint {endpoint}: register anew"
                )
            try:
                keep_loopback_up(far)
            except OSError as e:
                far.close()
                raise RegistrationError(
                    f"the network of endpoint {endpoint}'s sockets is down: {e}; register anew"
                ) from e
            self._introduce(near, endpoint, domain, kind)
            self._peers[endpoint] = far
            self._adopted.add(endpoint)

    def unplug(self, endpoint: int) -> None:
        """Remove every trace; the data socket, out of its map, is shut down for writing."""
        with self._lock:
            self._forget(endpoint)

    def set_route(self, endpoint: int, type: RouteType, target: int) -> None:
        """Say where an endpoint's descriptors go."""
        with self._lock:
            if self._maps["endpoints"].lookup(endpoint) is not None:
                self._maps["routes"].update(endpoint, ROUTE.pack(type, target))

    def set_group(self, group: int, members: Sequence[Share], cycle: int = 0) -> None:
        """Say who is in a group; senders begin anew with the first when ``cycle`` is another."""
        check_group(group, members)
        unused = [0] * (MAX_MEMBERS - len(members))
        endpoints = [m.endpoint for m in members] + unused
        runs = [m.run for m in members] + unused
        self._maps["groups"].update(group, GROUP.pack(len(members), cycle, *endpoints, *runs))

    def del_group(self, group: int) -> None:
        """Forget a group."""
        self._maps["groups"].delete(group)

    def inject(self, endpoint: int, d: Descriptor) -> None:
        """Write to the function's data socket through its peer.

        The kernel takes a closed data socket out of its map at once, while the
        connection would swallow a first write.
        """
        with self._lock:
            peer = self._peers.get(endpoint)
            if peer is None or self._maps["sockets"].lookup(endpoint) is None:
                gone = DropReason.DESTINATION_GONE
                raise NotDelivered(f"endpoint {endpoint} is gone", reason=gone)
            try:
                if endpoint in self._adopted:  # its pod's network may go after it was adopted
                    keep_loopback_up(peer)
                peer.send(d.pack(), _INJECT_FLAGS)
            except BlockingIOError as e:
                full = DropReason.DESTINATION_FULL
                raise NotDelivered(f"endpoint {endpoint} reads nothing", reason=full) from e
            except OSError as e:
                gone = DropReason.DESTINATION_GONE
                raise NotDelivered(f"endpoint {endpoint} is gone: {e}", reason=gone) from e

    def counters(self) -> dict[int, Counters]:
        """Return the sums over CPUs, for every endpoint in the maps."""
        found = {}
        with self._lock:
            for endpoint in self._maps["counters"]:
                values = self._maps["counters"].lookup(endpoint) or []
                tx_messages, tx_bytes, rx_messages, rx_bytes, arrivals = zip(
                    *map(COUNTERS.unpack, values), strict=True
                )
                found[endpoint] = Counters(
                    sum(tx_messages), sum(tx_bytes), sum(rx_messages), sum(rx_bytes), max(arrivals)
                )
        return found

    def drops(self) -> dict[DropReason, int]:
        """Return the sums over CPUs."""
        return {
            reason: sum(
                int.from_bytes(value, "little")
                for value in self._maps["drops"].lookup(reason) or []
            )
            for reason in DropReason
            if reason is not DropReason.NONE
        }

    def close(self) -> None:
        """Close the agent's descriptors; ``ebpf.agent.pins.remove`` ends pinned state."""
        for peer in self._peers.values():
            peer.close()
        self.kernel.close()

    def _introduce(self, near: socket.socket, endpoint: int, domain: int, kind: Kind) -> None:
        self._maps["identities"].update(
            near.fileno(), IDENTITY.pack(endpoint, domain, kind, 0, 0, 0)
        )
        self._maps["endpoints"].update(endpoint, ENDPOINT.pack(domain, kind))

    def _forget(self, endpoint: int) -> None:
        for name in ("endpoints", "routes", "sockets", "counters"):
            self._maps[name].delete(endpoint)
        peer = self._peers.pop(endpoint, None)
        self._adopted.discard(endpoint)
        if peer is not None:
            with contextlib.suppress(OSError):  # not connected any more
                peer.shutdown(socket.SHUT_WR)
            peer.close()


def _tcp_ends(fds: Sequence[int]) -> list[socket.socket]:
    """Own ``fds``; raises RegistrationError unless they are the ends of one connection."""
    try:
        found = take_sockets(fds)
    except OSError as e:
        raise RegistrationError(f"these are not an endpoint's sockets: {e}") from e
    if len(found) != 2 or not are_a_pair(*found):
        for s in found:
            s.close()
        raise RegistrationError("an endpoint's sockets are the two ends of one connection")
    return found
