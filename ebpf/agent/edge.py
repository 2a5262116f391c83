"""Between membership and the event loop: what each asks of the other.

Why: :mod:`ebpf.agent.membership` decides without sockets, and its tests need none.
It must hold no logic.
"""

from __future__ import annotations

from typing import Protocol

from ebpf.agent.registry import Endpoint


class RefusedError(Exception):
    """A registration is refused; ``again`` says that it may be granted later."""

    def __init__(self, code: str, detail: str, *, again: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.again = again


class Edge(Protocol):
    """What membership asks of the event loop."""

    def watch(self, endpoint: Endpoint) -> None:
        """Call :meth:`Membership.died` when the endpoint's process ends."""

    def unwatch(self, endpoint: Endpoint) -> None:
        """Stop doing so."""

    def hang_up(self, endpoint: Endpoint) -> None:
        """Close its connection, if there is one."""
