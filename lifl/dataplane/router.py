"""The rules of routing, for the switch that is not in the kernel.

Why: ``ebpf/bpf/lifl_route.c`` holds the same rules in the kernel, and one test suite
runs over both. Nothing here may do I/O: what reaches a queue is the caller's part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from lifl.dataplane.api import Counters
from lifl.wire import (
    DESCRIPTOR,
    DESCRIPTOR_BYTES,
    PAGE_BYTES,
    WIRE_VERSION,
    DropReason,
    Opcode,
    RouteType,
    Share,
)

_OPCODES = frozenset(Opcode)

Offer = Callable[[int, bytes], DropReason]
"""Try to put a message into an endpoint's queue; NONE when it is in."""


@dataclass(slots=True)
class Endpoint:
    """One endpoint's identity, route and counts (see :class:`Counters`)."""

    domain: int
    turn: int = 0
    had: int = 0
    cycle: int = 0
    route: tuple[RouteType, int] = (RouteType.NONE, 0)
    tx_messages: int = 0
    tx_bytes: int = 0
    rx_messages: int = 0
    rx_bytes: int = 0
    last_arrival_ns: int = 0


class Group(NamedTuple):
    """Who gets a sender's descriptors in turn; see ``Switch.set_group``."""

    members: tuple[Share, ...] = ()
    cycle: int = 0


class Router:
    """Who may send what to whom, and how often they did. Does no I/O."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self.endpoints: dict[int, Endpoint] = {}
        self.groups: dict[int, Group] = {}
        self.drops: dict[DropReason, int] = dict.fromkeys(DropReason, 0)
        del self.drops[DropReason.NONE]

    def route(self, sender: int, raw: bytes, offer: Offer) -> DropReason:
        """Give one message to the endpoint its sender's route leads to.

        Returns
        -------
        DropReason
            NONE when ``offer`` took it, else why not; counted either way.
        """
        reason = self._route(self.endpoints[sender], raw, offer)
        if reason is not DropReason.NONE:
            self.drops[reason] += 1
        return reason

    def _route(self, sender: Endpoint, raw: bytes, offer: Offer) -> DropReason:
        if len(raw) != DESCRIPTOR_BYTES:
            return DropReason.BAD_SIZE
        version, opcode, _, _, _, pages = DESCRIPTOR.unpack(raw)
        if version != WIRE_VERSION:
            return DropReason.BAD_VERSION
        if opcode not in _OPCODES:
            return DropReason.BAD_OPCODE
        type_, target = sender.route
        if type_ is RouteType.ENDPOINT:
            return self._deliver(sender, target, raw, pages * PAGE_BYTES, offer)
        if type_ is RouteType.GROUP:
            return self._deliver_to_group(sender, target, raw, pages * PAGE_BYTES, offer)
        return DropReason.NO_ROUTE

    def _deliver(
        self, sender: Endpoint, to: int, raw: bytes, nbytes: int, offer: Offer
    ) -> DropReason:
        target = self.endpoints.get(to)
        if target is None:
            return DropReason.DESTINATION_GONE
        if target.domain != sender.domain:
            return DropReason.DOMAIN
        reason = offer(to, raw)
        if reason is DropReason.NONE:
            sender.tx_messages += 1
            sender.tx_bytes += nbytes
            target.rx_messages += 1
            target.rx_bytes += nbytes
            target.last_arrival_ns = self._clock()
        return reason

    def _deliver_to_group(
        self, sender: Endpoint, group: int, raw: bytes, nbytes: int, offer: Offer
    ) -> DropReason:
        members, cycle = self.groups.get(group, Group())
        reason = DropReason.NO_MEMBER
        if not members:
            return reason
        if sender.cycle != cycle:
            sender.cycle, sender.turn, sender.had = cycle, 0, 0
        first, had = sender.turn % len(members), sender.had
        if had >= members[first].run:
            first, had = first + 1, 0
        for i in range(len(members)):
            at = (first + i) % len(members)
            why = self._deliver(sender, members[at].endpoint, raw, nbytes, offer)
            if why is DropReason.NONE:
                sender.turn, sender.had = at, (0 if i else had) + 1
                return why
            if why is not DropReason.DESTINATION_GONE:
                reason = why
        return reason

    def counters(self) -> dict[int, Counters]:
        """Return what every endpoint sent and got."""
        return {
            number: Counters(
                e.tx_messages, e.tx_bytes, e.rx_messages, e.rx_bytes, e.last_arrival_ns
            )
            for number, e in self.endpoints.items()
        }
