"""The admin socket's operations: one JSON request in, one JSON reply out.

Why: the controller speaks to the agent in terms of jobs, plans and assignments;
:class:`lifl.dataplane.admin.AgentAdmin` documents each. It must not hold state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ebpf.agent.membership import Membership
from ebpf.agent.node import Node
from ebpf.agent.work import Reading
from lifl.dataplane.api import Counters
from lifl.errors import LiflError, TemporaryError
from lifl.store import PoolGeometry
from lifl.topology import Plan

Body = dict[str, Any]
_NO_COUNTERS = Counters()
COUNT_NS = 500_000_000
"""A controller looks at every change, and makes a load of what is a second apart."""


class Operations:
    """What an administrator may ask."""

    def __init__(self, node: Node, membership: Membership) -> None:
        self._node = node
        self._membership = membership
        self._counted_ns = 0
        self._work: dict[str, Reading] = {}
        self._known: dict[str, Callable[[Mapping[str, Any]], Body]] = {
            "create_domain": self._create_domain,
            "remove_domain": self._remove_domain,
            "domains": self._domains,
            "apply": self._apply,
            "close_assignment": self._close_assignment,
            "end_assignment": self._end_assignment,
            "endpoints": self._endpoints,
            "pools": self._pools,
            "slots": self._slots,
            "counters": self._counters,
            "fence": self._fence,
            "info": lambda _: self._node.info(),
            "look": self._look,
        }

    def perform(self, request: Mapping[str, Any]) -> Body:
        """Return the reply to one request; a bad request is answered, not raised."""
        operation = self._known.get(str(request.get("op")))
        if operation is None:
            return {"ok": False, "detail": f"an operation is one of {', '.join(self._known)}"}
        try:
            return {"ok": True, **operation(request)}
        except LiflError as e:
            return {"ok": False, "again": isinstance(e, TemporaryError), "detail": str(e)}
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            return {"ok": False, "detail": f"the request does not fit {request['op']}: {e!r}"}

    def _create_domain(self, request: Mapping[str, Any]) -> Body:
        geometry = PoolGeometry(**request["geometry"])
        domain = self._node.create_domain(
            request["name"], int(request["uid"]), geometry, int(request["prefault_slots"])
        )
        return {"domain": domain.number}

    def _remove_domain(self, request: Mapping[str, Any]) -> Body:
        self._membership.remove_domain(request["name"])
        return {}

    def _domains(self, request: Mapping[str, Any]) -> Body:
        return {
            "domains": [
                {
                    "id": d.number,
                    "name": d.name,
                    "uid": d.uid,
                    "geometry": asdict(d.geometry),
                    "assignments": sorted(d.plans),
                    "closing": sorted(d.closing),
                }
                for d in self._node.domains.values()
            ]
        }

    def _look(self, request: Mapping[str, Any]) -> Body:
        now = time.monotonic_ns()
        if now - self._counted_ns >= COUNT_NS:  # the kernel is asked for every endpoint
            self._counted_ns, self._work = now, self._node.work()
        return {
            "epoch": self._node.epoch,
            "domains": list(self._node.domains),
            "work": self._work,
            "at_ns": self._counted_ns,
        }

    def _apply(self, request: Mapping[str, Any]) -> Body:
        return {"missing": self._node.apply(Plan.from_json(request["plan"]))}

    def _close_assignment(self, request: Mapping[str, Any]) -> Body:
        self._node.close_assignment(request["job"], int(request["assignment"]))
        return {}

    def _end_assignment(self, request: Mapping[str, Any]) -> Body:
        self._node.end_assignment(request["job"], int(request["assignment"]))
        return {}

    def _endpoints(self, request: Mapping[str, Any]) -> Body:
        counters = self._node.switch.counters()
        return {
            "endpoints": [
                self._node.describe(e) | {"counters": asdict(counters.get(e.number, _NO_COUNTERS))}
                for e in self._node.registry.live()
            ]
        }

    def _pools(self, request: Mapping[str, Any]) -> Body:
        return {
            "pools": {d.name: list(d.pool.usage()) for d in self._node.domains.values() if d.pool}
        }

    def _slots(self, request: Mapping[str, Any]) -> Body:
        pool, since = self._node.domain(request["job"]).pool, int(request["since_ns"])
        rows = map(pool.entry, range(pool.geometry.slots)) if pool else ()
        return {"slots": [list(row) for row in rows if row.sealed_ns >= since]}

    def _counters(self, request: Mapping[str, Any]) -> Body:
        drops = self._node.switch.drops()
        return {
            "drops": {reason.name.lower(): n for reason, n in drops.items()},
            "events": dict(self._node.events),
        }

    def _fence(self, request: Mapping[str, Any]) -> Body:
        return {"fenced": self._membership.fence(request["name"])}
