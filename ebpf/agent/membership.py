"""Functions come, come back, and go: registration, loss, death, fencing.

Why: taking a function's leases back is right only when it cannot use them any
more. A dead process cannot; a live one is made void first: unplugged, refused if
it comes back, its seals refused by the pool, and what it was writing kept out of
use until the process has ended.

It must not read sockets; :mod:`ebpf.agent.server` does, and is told through
:class:`ebpf.agent.edge.Edge` whom to watch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ebpf.agent.domains import Domain
from ebpf.agent.edge import Edge, RefusedError
from ebpf.agent.identity import Identity
from ebpf.agent.node import Node
from ebpf.agent.peers import Process
from ebpf.agent.registry import Endpoint, endpoint_from_json
from lifl.dataplane import framing
from lifl.errors import ConfigError, PoolBusy, PoolDamaged, RegistrationError, Unavailable
from lifl.naming import check_name
from lifl.store import Pool
from lifl.wire import Kind

log = logging.getLogger("lifl.agent")

FUNCTION_KINDS = {k.name.lower(): k for k in (Kind.GATEWAY, Kind.AGGREGATOR, Kind.COORDINATOR)}


class Membership:
    """Who belongs to the node. ``identity`` says who may be whom."""

    def __init__(
        self, node: Node, edge: Edge, clock: Callable[[], float], identity: Identity
    ) -> None:
        self._node = node
        self._edge = edge
        self._clock = clock
        self._identity = identity

    # -- coming -----------------------------------------------------------------------

    def register(
        self, process: Process, request: Mapping[str, Any]
    ) -> tuple[Endpoint, tuple[int, ...]]:
        """Take a new function in; ``process`` is the endpoint's from here on.

        Returns
        -------
        The endpoint and its data socket descriptors, which the caller owns.

        Raises
        ------
        RefusedError
            the caller still owns ``process``.
        """
        kind, name, domain = self._who(process, request)
        if domain.pool is None:
            raise RefusedError("restarting", "the pool is not back yet", again=True)
        self._make_way(name, domain)
        try:
            lane = self._node.registry.lane(domain, kind)
        except RegistrationError as e:
            raise RefusedError("full", str(e), again=True) from e
        number = self._node.registry.number()
        try:
            fds = self._node.switch.plug(number, domain.number, kind)
        except (Unavailable, ConfigError) as e:
            raise RefusedError("no-sockets", str(e), again=True) from e
        endpoint = Endpoint(number, kind, name, domain, lane, process)
        self._node.events["registrations"] += 1
        domain.coordinator_here = domain.coordinator_here or kind is Kind.COORDINATOR
        self._admit(endpoint)
        return endpoint, fds

    def _who(self, process: Process, request: Mapping[str, Any]) -> tuple[Kind, str, Domain]:
        kind = FUNCTION_KINDS.get(str(request.get("kind")))
        if kind is None:
            raise RefusedError("bad-request", f"a kind is one of {', '.join(FUNCTION_KINDS)}")
        try:
            name = check_name(str(request.get("name")), "function")
            domain = self._node.domain(str(request.get("domain")))
        except ConfigError as e:
            unknown = str(request.get("domain")) not in self._node.domains
            raise RefusedError(
                "no-domain" if unknown else "bad-request", str(e), again=unknown
            ) from e
        self._identity.check(process, kind, name, domain, request)
        return kind, name, domain

    def _make_way(self, name: str, domain: Domain) -> None:
        """Give up an earlier instance of the same name, unless it is still connected."""
        for earlier in self._node.registry.named(name, domain):
            if earlier.lost_at is None and not earlier.process.ended:
                raise RefusedError("name-in-use", f"{name} is registered already", again=True)
            self.give_up(earlier)

    def _admit(self, endpoint: Endpoint) -> None:
        node = self._node
        endpoint.lost_at = None
        node.registry.add(endpoint)
        node.plugged.add(endpoint.number)
        self._edge.watch(endpoint)
        node.wire(endpoint.domain)
        node.save()

    # -- coming back --------------------------------------------------------------------

    def resume(self, process: Process, request: Mapping[str, Any], fds: Sequence[int]) -> Endpoint:
        """Take a function back; ``fds`` (pool, data socket) are owned from here on.

        Raises
        ------
        RefusedError
            if it was given up, or is not who it says. The caller still owns ``process``.
        """
        endpoint = self._node.registry.get(int(request["resume"]))
        if endpoint is None or not self._is_the_same(endpoint, process, request):
            framing.close_all(fds)
            raise RefusedError("fenced", "this function was given up; register anew")
        if not fds or not endpoint.domain.recognise(fds[0]):
            framing.close_all(fds)
            raise RefusedError("fenced", "this is not the pool of the job; register anew")
        try:
            self._take_pool(endpoint.domain, fds[0])
        except ConfigError as e:
            framing.close_all(fds)
            self.give_up(endpoint)
            raise RefusedError("fenced", f"{e}; register anew") from e
        if endpoint.number in self._node.plugged:
            framing.close_all(fds[1:])
        else:
            try:
                self._node.switch.adopt(
                    endpoint.number, endpoint.domain.number, endpoint.kind, fds[1:]
                )
            except RegistrationError as e:
                self.give_up(endpoint)
                raise RefusedError("fenced", str(e)) from e
        process.close()
        self._edge.unwatch(endpoint)
        self._node.events["resumptions"] += 1
        self._admit(endpoint)
        return endpoint

    @staticmethod
    def _is_the_same(endpoint: Endpoint, process: Process, request: Mapping[str, Any]) -> bool:
        return (
            not endpoint.void
            and endpoint.process.is_the_same(process)
            and request.get("name") == endpoint.name
            and request.get("domain") == endpoint.domain.name
        )

    @staticmethod
    def _take_pool(domain: Domain, fd: int) -> None:
        if domain.pool is None:
            domain.own(Pool.attach(fd))
            domain.hurry = True
            return
        with domain.pool.lock.threads:  # closing drops this process's record locks
            framing.close_all([fd])

    def ready(self, endpoint: Endpoint) -> None:
        """Let descriptors come to a function that says it serves."""
        if not endpoint.ready and not endpoint.void:
            endpoint.ready = True
            endpoint.domain.hurry = True
            self._node.wire(endpoint.domain)
            self._node.save()

    # -- going --------------------------------------------------------------------------

    def lost(self, endpoint: Endpoint) -> None:
        """Note that the connection ended; the process may live and come back."""
        if not endpoint.void and endpoint.lost_at is None:
            endpoint.lost_at = self._clock()

    def died(self, endpoint: Endpoint) -> None:
        """Clear up after a process that ended."""
        if self._node.registry.get(endpoint.number) is not endpoint:
            return
        self._edge.unwatch(endpoint)
        if endpoint.void:
            self.bury(endpoint)
        else:
            self.give_up(endpoint)

    def goodbye(self, endpoint: Endpoint) -> None:
        """Let a function go that says that it has closed everything."""
        endpoint.left = True
        self.give_up(endpoint)

    def farewell(self, process: Process, number: int) -> None:
        """Let a function go that says so over another connection than it registered on.

        It lost that one: the agent gave it up, or was replaced by one that does not know
        its data socket. The caller still owns ``process``.
        """
        endpoint = self._node.registry.get(number)
        if endpoint is not None and endpoint.process.is_the_same(process):
            self.goodbye(endpoint)

    def give_up(self, endpoint: Endpoint) -> None:
        """Make an endpoint void and take its leases back, whether it lives or not."""
        node, domain = self._node, endpoint.domain
        log.info("%s (endpoint %d of job %s) is gone", endpoint.name, endpoint.number, domain.name)
        endpoint.void, endpoint.ready = True, False
        if not endpoint.gone:
            node.events["fences"] += 1
        self._edge.hang_up(endpoint)
        node.plugged.discard(endpoint.number)
        node.switch.unplug(endpoint.number)
        domain.names[endpoint.number] = endpoint.name
        domain.hurry = True
        node.wire(domain)
        self.bury(endpoint)
        node.save()

    def bury(self, endpoint: Endpoint) -> None:
        """Take a void endpoint's leases back; forget it once it is gone for good.

        A pool that is busy or not back yet is left to the sweeper, which calls again.
        """
        domain = endpoint.domain
        gone = endpoint.gone
        try:
            if not self.recover(domain, endpoint.number, endpoint.lane if gone else None, not gone):
                return
        except PoolDamaged as e:
            self.condemn(domain, e)
            return
        if gone:
            self._edge.unwatch(endpoint)
            self._node.registry.remove(endpoint)
            endpoint.process.close()
            self._node.save()

    def recover(self, domain: Domain, number: int, lane: int | None, alive: bool) -> bool:
        """Take leases back and send the inputs on; False if the pool cannot be had now.

        Raises
        ------
        PoolDamaged
            if its table makes no sense.
        """
        if domain.pool is None:
            return False
        try:
            recovery = domain.pool.recover(number, lane, alive=alive)
        except PoolBusy as e:
            log.warning("cannot recover endpoint %d yet: %s", number, e)
            return False
        if recovery.redispatch or recovery.freed or recovery.fenced:
            self._node.events["recoveries"] += 1
            log.info(
                "job %s, endpoint %d: %d inputs go out again, %d were summed, %d outputs are void",
                domain.name,
                number,
                len(recovery.redispatch),
                len(recovery.freed),
                len(recovery.fenced),
            )
        self._node.dispatch(domain, recovery.redispatch)
        return True

    def condemn(self, domain: Domain, why: PoolDamaged) -> None:
        """Give up a pool that one of its own functions ruined; the sweeper makes another.

        Its functions have to register anew, and the job's clients are asked again.
        """
        if domain.pool is None:
            return
        log.error("job %s: its pool is damaged and given up: %s", domain.name, why)
        self._node.events["damages"] += 1
        domain.pool.close()
        domain.pool = None
        domain.prefault = 0  # whoever does it again must not keep the agent busy with it
        for endpoint in self._node.registry.live(domain):
            self.give_up(endpoint)

    def fence(self, name: str) -> int:
        """Give up every registration of a function instance; return how many."""
        found = self._node.registry.named(name)
        for endpoint in found:
            self.give_up(endpoint)
        return len(found)

    def remove_domain(self, name: str) -> None:
        """Give up a domain's functions and drop its memory; it may be gone already."""
        domain = self._node.domains.get(name)
        if domain is None:
            return
        for endpoint in self._node.registry.live(domain):
            self.give_up(endpoint)
        for endpoint in self._node.registry:  # void ones: their memory goes with the pool
            if endpoint.domain is domain:
                self._edge.unwatch(endpoint)
                self._node.registry.remove(endpoint)
                endpoint.process.close()
        self._node.forget_domain(domain)

    # -- after a restart of the agent -----------------------------------------------------

    def restore(self, functions: Iterable[Mapping[str, Any]]) -> None:
        """Take over the last agent's functions; those that live may come back for a while."""
        node, settings = self._node, self._node.settings
        numbers = {d.number: d for d in node.domains.values()}
        grace_ends = self._clock() + settings.restart_grace - settings.grace
        for item in functions:
            domain = numbers[item["domain"]]
            try:
                process = Process.find(item["pid"], item["uid"], item["started"])
            except ProcessLookupError:
                process = Process.gone(item["pid"], item["uid"], item["started"])
            endpoint = endpoint_from_json(item, domain, process, grace_ends)
            node.registry.add(endpoint)
            if process.ended and not endpoint.void:
                self.give_up(endpoint)
            elif not process.ended:
                self._edge.watch(endpoint)
        for number in node.switch.counters():
            known = node.registry.get(number)
            if known is None or known.void:
                node.switch.unplug(number)
