"""Who a function is: by its user on one machine, by its pod on a cluster.

Why: on a cluster all functions of one image run as one user, so a uid tells
nobody apart (:mod:`ebpf.agent.pods` does). Membership asks one of these and knows
no difference. It must not keep state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ebpf.agent.domains import Domain
from ebpf.agent.edge import RefusedError
from ebpf.agent.peers import Process
from ebpf.agent.settings import AgentSettings
from lifl.wire import Kind


class Identity(Protocol):
    """How it is found out whether a process may be the function it says it is."""

    def check(
        self, process: Process, kind: Kind, name: str, domain: Domain, request: Mapping[str, Any]
    ) -> None:
        """Return if ``process`` may be function ``name`` of that kind in ``domain``.

        ``request`` is all that it sent. Raises RefusedError.
        """


@dataclass(frozen=True, slots=True)
class ByUser:
    """Aggregators run as their job's user, gateways and coordinators as the platform's."""

    platform_uids: frozenset[int]

    def check(
        self, process: Process, kind: Kind, name: str, domain: Domain, request: Mapping[str, Any]
    ) -> None:
        """See Identity."""
        allowed = {domain.uid} if kind is Kind.AGGREGATOR else self.platform_uids
        if process.uid not in allowed:
            raise RefusedError(
                "forbidden",
                f"a {kind.name.lower()} of job {domain.name} runs as user "
                f"{' or '.join(map(str, sorted(allowed)))}, not {process.uid}",
            )


def of(settings: AgentSettings, platform_uids: frozenset[int]) -> Identity:
    """Return what the settings ask for."""
    if settings.identity == "pod":
        from ebpf.agent.pods import ByPod  # jwt is slow to load, and nobody else needs it

        return ByPod(settings.platform_secret)
    return ByUser(platform_uids)
