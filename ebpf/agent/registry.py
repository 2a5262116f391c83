"""The functions an agent knows: numbers, lanes, processes, who is ready, who is void.

Why: a number is never given twice, so that no slot can be mistaken for another
function's, not even after a restart of the agent. A function that was given up
while its process lived stays here, void, until the process ends: its lane and
what it was writing cannot be reused while it may still write.

It must not do I/O on sockets, pools or the data plane.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ebpf.agent.domains import READERS, Domain
from ebpf.agent.peers import Process
from ebpf.agent.plans import Member
from lifl.errors import RegistrationError
from lifl.wire import Kind


@dataclass(slots=True, eq=False)
class Endpoint:
    """One registered (function instance, job)."""

    number: int
    kind: Kind
    name: str
    domain: Domain
    lane: int
    process: Process
    ready: bool = False
    void: bool = False
    """Given up: its leases were taken back and it may not come back."""
    left: bool = False
    """It said goodbye: its process may live, but uses nothing of the job any more."""
    lost_at: float | None = None
    """Since when there is no connection to it."""

    @property
    def gone(self) -> bool:
        """Whether nothing can come from it any more."""
        return self.left or self.process.ended

    @property
    def member(self) -> Member:
        """Return what routing needs to know."""
        return Member(self.number, self.kind, self.name, self.lane, self.ready)

    def to_json(self) -> dict[str, Any]:
        """Return what the next agent must know."""
        return {
            "number": self.number,
            "kind": self.kind.name,
            "name": self.name,
            "domain": self.domain.number,
            "lane": self.lane,
            "pid": self.process.pid,
            "uid": self.process.uid,
            "started": self.process.started,
            "ready": self.ready,
            "void": self.void,
        }


class Registry:
    """Every endpoint, by number. ``next_number`` outlives the agent."""

    def __init__(self, next_number: int = 1) -> None:
        self.next_number = next_number
        self._all: dict[int, Endpoint] = {}

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(tuple(self._all.values()))

    def number(self) -> int:
        """Return a number that was never given before."""
        self.next_number += 1
        return self.next_number - 1

    def add(self, endpoint: Endpoint) -> None:
        """Take an endpoint in."""
        self._all[endpoint.number] = endpoint

    def remove(self, endpoint: Endpoint) -> None:
        """Forget an endpoint."""
        del self._all[endpoint.number]

    def get(self, number: int) -> Endpoint | None:
        """Return an endpoint, void or not."""
        return self._all.get(number)

    def live(self, domain: Domain | None = None) -> list[Endpoint]:
        """Return the endpoints that are not void, of one domain or all."""
        return [e for e in self if not e.void and (domain is None or e.domain is domain)]

    def members(self, domain: Domain) -> list[Member]:
        """Return a domain's members for routing."""
        return [e.member for e in self.live(domain)]

    def named(self, name: str, domain: Domain | None = None) -> list[Endpoint]:
        """Return the live endpoints of a function instance."""
        return [e for e in self.live(domain) if e.name == name]

    def lane(self, domain: Domain, kind: Kind) -> int:
        """Return a free lane: below READERS for those that pin, the rest for aggregators.

        Raises
        ------
        RegistrationError
            if all are in use.
        """
        used = {e.lane for e in self if e.domain is domain}
        lanes = domain.geometry.lanes
        wanted = range(READERS, lanes) if kind is Kind.AGGREGATOR else range(READERS)
        for lane in wanted:
            if lane not in used:
                return lane
        raise RegistrationError(f"job {domain.name} has {len(wanted)} {kind.name.lower()}s already")


def endpoint_from_json(
    raw: Mapping[str, Any], domain: Domain, process: Process, now: float
) -> Endpoint:
    """Read what :meth:`Endpoint.to_json` wrote; its function has yet to come back."""
    return Endpoint(
        number=raw["number"],
        kind=Kind[raw["kind"]],
        name=raw["name"],
        domain=domain,
        lane=raw["lane"],
        process=process,
        ready=raw["ready"],
        void=raw["void"],
        lost_at=now,
    )
