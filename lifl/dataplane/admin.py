"""The controller's side of an agent's admin operations.

Why: creating domains, applying plans and settling assignments are the
controller's business; the agent decides how they become routes. One request,
one reply, over a connection that is made anew when the agent was restarted
(:mod:`lifl.dataplane.transports`); every operation may be repeated. May be used
by several threads.

It must not decide anything.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from lifl.dataplane.transports import TlsTransport, Transport, UnixTransport
from lifl.errors import ConfigError, PoolBusy
from lifl.store import PoolGeometry, PoolUsage, SlotEntry, SlotKind, SlotState
from lifl.topology import Plan


class AgentAdmin:
    """One agent, by its admin socket (only its owner and root may connect) or another way.

    Every call raises Unavailable when the agent does not answer within
    ``timeout`` seconds, ConfigError when it refuses, and WireError when what is
    asked is longer than a message may be.
    """

    def __init__(self, to: Path | str | Transport, *, timeout: float = 30.0) -> None:
        self._transport = to if isinstance(to, Transport) else UnixTransport(Path(to), timeout)
        self._lock = threading.Lock()

    @classmethod
    def remote(cls, host: str, port: int, context: ssl.SSLContext, timeout: float = 30.0) -> Self:
        """Reach the agent at ``host:port`` over TLS.

        ``context`` is :func:`lifl.dataplane.tls.controller_context`. Both sides verify each
        other; an agent that refuses this side's certificate is Unavailable.
        """
        return cls(TlsTransport(host, port, context, timeout))

    def create_domain(
        self, name: str, uid: int, geometry: PoolGeometry, prefault_slots: int = 0
    ) -> int:
        """Make job ``name``'s domain and pool, unless it is there already; return its id.

        Its aggregators must run as user ``uid``. Refused when it is there with
        another user or geometry.
        """
        reply = self._call(
            "create_domain",
            name=name,
            uid=uid,
            geometry=asdict(geometry),
            prefault_slots=prefault_slots,
        )
        return int(reply["domain"])

    def remove_domain(self, name: str) -> None:
        """End the domain: its functions lose their registration, its pool goes."""
        self._call("remove_domain", name=name)

    def domains(self) -> list[dict[str, Any]]:
        """Return ``[{"id", "name", "uid", "geometry", "assignments", "closing"}]``."""
        found: list[dict[str, Any]] = self._call("domains")["domains"]
        return found

    def apply(self, plan: Plan) -> list[str]:
        """Make this node's part of ``plan`` real; return the aggregators not yet there.

        Their roles are completed when they register. A plan older than the one
        in force (by assignment, then epoch) changes nothing.
        """
        lean = replace(plan, clients={})  # which client posts where is not the agent's business
        missing: list[str] = self._call("apply", plan=lean.to_json())["missing"]
        return missing

    def close_assignment(self, job: str, assignment: int) -> None:
        """Say that no more updates come: settle what is there, bottom-up."""
        self._call("close_assignment", job=job, assignment=assignment)

    def end_assignment(self, job: str, assignment: int) -> None:
        """Say that nobody wants the assignment's objects any more."""
        self._call("end_assignment", job=job, assignment=assignment)

    def endpoints(self) -> list[dict[str, Any]]:
        """Return the registered functions.

        Each has endpoint, name, kind, domain (the job), pid, uid, ready, lane,
        assignment (0: idle) and counters.
        """
        found: list[dict[str, Any]] = self._call("endpoints")["endpoints"]
        return found

    def pools(self) -> dict[str, PoolUsage]:
        """Return each job's pool usage on this node; a pool not there yet is left out."""
        return {job: PoolUsage(*row) for job, row in self._call("pools")["pools"].items()}

    def slots(self, job: str, since_ns: int) -> list[SlotEntry]:
        """Return a job's slot rows that were sealed last at ``since_ns`` (monotonic) or later.

        Freed slots are among them until they are used again.
        """
        rows = self._call("slots", job=job, since_ns=since_ns)["slots"]
        return [SlotEntry(SlotState(r[0]), SlotKind(r[1]), *r[2:]) for r in rows]

    def counters(self) -> dict[str, Any]:
        """Return ``{"drops": {reason: n}, "events": {what: n}}`` since the agent's start."""
        return self._call("counters")

    def fence(self, name: str) -> int:
        """Give up every registration of function ``name``, alive or not; return how many."""
        return int(self._call("fence", name=name)["fenced"])

    def look(self) -> dict[str, Any]:
        """Return all that a pass of the controller asks for, at once.

        ``{"epoch", "domains": [names], "work": {job: [arrived, added, waited_ns, busy_ns]},
        "at_ns"}``: of each job the client updates that came, that were summed, how long those
        took altogether and how long of that they were being added, since the start of the agent
        or the job, counted at ``at_ns`` of the agent's CLOCK_MONOTONIC, half a second ago at most.
        """
        return self._call("look")

    def info(self) -> dict[str, Any]:
        """Return ``{"node", "dataplane", "epoch", "pid"}``; the epoch grows with each start."""
        return self._call("info")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._transport.close()

    def _call(self, op: str, **arguments: Any) -> dict[str, Any]:
        with self._lock:
            body = self._transport.exchange({"op": op, **arguments})
        if body.pop("ok", False):
            return body
        detail = str(body.get("detail", "the agent gave no reason"))
        raise PoolBusy(detail) if body.get("again") else ConfigError(detail)
