"""What functions and the agent may expect of a data plane.

Why: two implementations, one behaviour: the kernel routes (``ebpf/agent``) or the
agent does (:mod:`lifl.dataplane.relay`). It must hold no code.

Rules that both keep:

- The sender is known by its socket, the destination is its route. A group's members
  take turns, each getting its run of descriptors, by a position the sender has of its own;
  a member that is gone or full is passed over.
- A descriptor is delivered or the send fails; what failed is counted by reason,
  what was delivered in the counters of both ends. Injected descriptors are not
  counted: the agent knows them.
- Descriptors of one sender to one endpoint arrive in order. Those waiting for a
  function die with it: a descriptor is a hint, the slot table is the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lifl.wire import Descriptor, DropReason, Kind, RouteType, Share

MAX_DRAIN = 64
"""Descriptors one ``recv`` returns at most."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What one endpoint sent and got; bytes are those of the objects named."""

    tx_messages: int = 0
    tx_bytes: int = 0
    rx_messages: int = 0
    rx_bytes: int = 0
    last_arrival_ns: int = 0
    """CLOCK_MONOTONIC of the last arrival, 0 before the first."""


class Channel(Protocol):
    """A function's end of the data plane, made of the descriptors it was handed.

    Any thread may send; one receives. The descriptors stay as they are until ``close``,
    so that a function can bring them to a restarted agent.
    """

    endpoint: int

    def send(self, d: Descriptor) -> None:
        """Send to wherever this endpoint's route leads; never waits for the receiver.

        Raises
        ------
        NotDelivered
            when no receiver has it; the caller still owns the object.
        """

    def recv(self, timeout: float | None = None) -> list[Descriptor]:
        """Return up to MAX_DRAIN descriptors, waiting ``timeout`` seconds for the first.

        None waits for ever; an empty list means that the time is over.

        Raises
        ------
        Unavailable
            when the agent has unplugged this endpoint: it gets nothing any more.
        """

    def fileno(self) -> int:
        """Return a descriptor that is readable while descriptors wait."""

    def close(self) -> None:
        """Close the sockets."""


class Switch(Protocol):
    """What the agent drives. Any thread may call."""

    name: str
    """``"ebpf"`` or ``"socket"``: what :func:`lifl.dataplane.open_channel` is told."""

    def plug(self, endpoint: int, domain: int, kind: Kind) -> tuple[int, ...]:
        """Make an endpoint's sockets; the caller owns and closes what is returned.

        The endpoint has no route yet. Raises ConfigError when the number is in use,
        which after a restart it may be by a function that has not come back yet:
        :meth:`counters` lists all. Raises Unavailable when the system gives no sockets.
        """

    def adopt(self, endpoint: int, domain: int, kind: Kind, fds: Sequence[int]) -> None:
        """Take a function back after the agent's restart; ``fds`` are owned from here on.

        ``fds`` are those :meth:`plug` once returned, brought by the function, and are
        checked as far as the kernel tells. Domain numbers must be those of before the
        restart. Raises RegistrationError when they cannot be taken: plug anew then.
        """

    def unplug(self, endpoint: int) -> None:
        """Forget an endpoint, also one that this process never plugged.

        Whoever still holds its sockets can neither send nor receive from here on.
        """

    def set_route(self, endpoint: int, type: RouteType, target: int) -> None:
        """Say where an endpoint's descriptors go: another endpoint, a group, nowhere."""

    def set_group(self, group: int, members: Sequence[Share], cycle: int = 0) -> None:
        """Say who is in a group; raises ConfigError for more than MAX_MEMBERS, or an odd run.

        A sender goes on where it stopped, but with the first member when ``cycle`` is another.
        """

    def del_group(self, group: int) -> None:
        """Forget a group; routes to it find no member."""

    def inject(self, endpoint: int, d: Descriptor) -> None:
        """Send from the agent to one function; raises NotDelivered."""

    def counters(self) -> dict[int, Counters]:
        """Return the counters of every endpoint there is."""

    def drops(self) -> dict[DropReason, int]:
        """Return how many descriptors were refused, by reason; reasons never met are 0."""

    def close(self) -> None:
        """Let go of everything; the kernel's own state stays if it is pinned."""
