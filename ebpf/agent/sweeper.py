"""The agent's periodic duties: nothing sealed stays behind, nobody dead holds a lease.

Why: descriptors are hints and functions die at any point, so the slot table is
looked through again and again: orphaned leases are taken back, sealed objects
that nobody took are sent again, closing assignments are settled bottom-up, what
is left of ended ones is thrown away.

What to do is decided in :mod:`ebpf.agent.settle`; this module carries it out. It
must not block: a pool whose table is held is tried again at the next tick, and a
process that holds one for LOCK_LIMIT seconds is killed, or left alone with the pool
if the agent may not kill it.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict

from ebpf.agent.domains import Domain
from ebpf.agent.membership import Membership
from ebpf.agent.node import Node
from ebpf.agent.registry import Endpoint
from ebpf.agent.settle import Item, quiescent, under_pressure
from lifl.errors import PoolBusy, PoolDamaged, StaleObject
from lifl.store import Pool, SlotKind, SlotState
from lifl.wire import Kind

log = logging.getLogger("lifl.agent")

LOCK_LIMIT = 1.0
FLUSH_PAUSE = 0.2
WARMING_PAUSE = 0.005
IDLE_FACTOR = 10
"""How much longer than usual the sweeper waits when no assignment is open."""


class Sweeper:
    """Does one round of duties a :meth:`tick`."""

    def __init__(self, node: Node, membership: Membership) -> None:
        self._node = node
        self._membership = membership
        self._next_sweep = 0.0

    @property
    def pause(self) -> float:
        """Seconds until the next tick is due."""
        active = any(
            d.plans or d.hurry or d.rewire or d.pool is None for d in self._node.domains.values()
        ) or any(e.void or e.lost_at is not None for e in self._node.registry)
        if self._cold_domain() is not None:
            return WARMING_PAUSE
        return self._node.settings.sweep * (1 if active else IDLE_FACTOR)

    def tick(self, now: float) -> None:
        """Do what is due; ``now`` is CLOCK_MONOTONIC in seconds."""
        if now < self._next_sweep and self._warm():
            return
        self._next_sweep = now + self._node.settings.sweep
        self._time_out_lost(now)
        for endpoint in self._node.registry:
            if endpoint.void and endpoint.gone:
                self._membership.bury(endpoint)
        for domain in tuple(self._node.domains.values()):
            try:
                self._sweep(domain, now)
            except PoolBusy as e:
                log.warning("job %s: %s", domain.name, e)
            except PoolDamaged as e:
                self._membership.condemn(domain, e)

    def _cold_domain(self) -> Domain | None:
        """Return a domain that needs pages, if the budget lets them be made."""
        if self._budget() <= 0:
            return None
        for domain in self._node.domains.values():
            if domain.pool is not None and domain.warming.due(domain.pool):
                return domain
        return None

    def _budget(self) -> int:
        limit = self._node.settings.pool_warm
        if limit <= 0:
            return 0
        pools = (d.pool for d in self._node.domains.values() if d.pool is not None)
        return limit - sum(p.warm_slots() * p.geometry.slot_bytes for p in pools)

    def _warm(self) -> bool:
        """Make a piece of a pool's pages; return whether there was one to make."""
        domain = self._cold_domain()
        if domain is None or domain.pool is None:
            return False
        return domain.warming.step(domain.pool, self._budget()) > 0

    def _time_out_lost(self, now: float) -> None:
        for endpoint in self._node.registry.live():
            if endpoint.lost_at is None:
                continue
            if endpoint.process.ended or now - endpoint.lost_at > self._node.settings.grace:
                self._membership.give_up(endpoint)

    def _sweep(self, domain: Domain, now: float) -> None:
        if domain.pool is None:
            if self._node.registry.live(domain):
                return  # somebody may still bring it back
            log.warning("job %s: nobody held its pool any more; it starts empty", domain.name)
            domain.create_pool()
            self._node.wire(domain)
            self._node.save()
            return
        self._watch_lock(domain, domain.pool, now)
        if domain.rewire:
            domain.rewire = False
            self._node.wire(domain)
        self._take_orphans(domain)
        items = domain.objects()
        by_assignment: dict[int, list[Item]] = defaultdict(list)
        for item in items:
            by_assignment[item.entry.assignment].append(item)
        for assignment, found in by_assignment.items():
            if assignment in domain.ended:
                self._clear(domain, domain.pool, assignment, found, now)
            elif assignment in domain.plans:
                self._move_on(domain, domain.pool, assignment, found, now)
        domain.hurry = False
        domain.dispatcher.forget(i.ref for i in items)
        self._rest(domain, domain.pool, now)

    def _watch_lock(self, domain: Domain, pool: Pool, now: float) -> None:
        """End it when a process of this domain sits on the table, stopped or worse."""
        holder = pool.lock.holder()
        if not holder:
            domain.busy_since = None
        elif domain.busy_since is None or domain.busy_since[0] != holder:
            domain.busy_since = (holder, now)
        elif now - domain.busy_since[1] > LOCK_LIMIT:
            for endpoint in self._node.registry:
                if endpoint.domain is domain and endpoint.process.pid == holder:
                    self._kill(endpoint)
                    break
            domain.busy_since = None

    def _kill(self, endpoint: Endpoint) -> None:
        """Kill a function; raises PoolDamaged where only giving its pool up is left."""
        try:
            endpoint.process.kill()
        except PermissionError:  # another user's, and no CAP_KILL: the agent of a cluster
            why = f"{endpoint.name} sits on its table, and the agent may not kill it"
            raise PoolDamaged(why) from None
        log.error("%s sits on its pool's table; killed", endpoint.name)
        self._node.events["kills"] += 1

    def _take_orphans(self, domain: Domain) -> None:
        """Take leases back that nobody registered has: a void process may still take."""
        live = {e.number for e in self._node.registry.live(domain)}
        orphans = set()
        for _, entry in domain.objects():
            if entry.state is SlotState.TAKEN and entry.holder not in live:
                orphans.add(entry.holder)
            elif entry.state is SlotState.WRITING and entry.owner not in live:
                orphans.add(entry.owner)
        for number in orphans:
            void = self._node.registry.get(number)
            alive = void is not None and not void.gone
            self._membership.recover(domain, number, None, alive)

    def _move_on(
        self, domain: Domain, pool: Pool, assignment: int, items: list[Item], now: float
    ) -> None:
        view = self._node.view(domain, assignment)
        if view is None:
            return
        self._node.send(domain.dispatcher.due(view, items, domain.names, now, hurry=domain.hurry))
        if assignment in domain.closing:
            flush = quiescent(view, items, domain.names)
        else:
            usage = pool.usage()
            flush = under_pressure(view, items, usage.free, usage.kept, usage.slots)
        for endpoint in flush:
            self._flush(domain, endpoint, assignment, now)

    def _flush(self, domain: Domain, endpoint: int, assignment: int, now: float) -> None:
        last = domain.flushed.get((endpoint, assignment))
        if last is None or now - last >= FLUSH_PAUSE:
            domain.flushed[endpoint, assignment] = now
            self._node.flush(endpoint, assignment)

    def _clear(
        self, domain: Domain, pool: Pool, assignment: int, items: list[Item], now: float
    ) -> None:
        """Throw away what is sealed of an ended assignment; have the rest sealed."""
        for ref, entry in items:
            if entry.state is SlotState.SEALED:
                with contextlib.suppress(StaleObject):
                    pool.discard(ref)
                    self._node.events["discards"] += 1
            elif entry.state is SlotState.TAKEN or entry.kind is SlotKind.PARTIAL:
                holder = entry.holder if entry.state is SlotState.TAKEN else entry.owner
                endpoint = self._node.registry.get(holder)
                if endpoint is not None and endpoint.kind is Kind.AGGREGATOR and not endpoint.void:
                    self._flush(domain, holder, assignment, now)

    def _rest(self, domain: Domain, pool: Pool, now: float) -> None:
        """Give a pool's free pages back once when its job has been idle for long."""
        if domain.plans:
            domain.idle_since = None
        elif domain.idle_since is None:
            domain.idle_since = now
        elif now - domain.idle_since > self._node.settings.pool_idle:
            given = pool.punch()
            domain.idle_since = float("inf")
            domain.warming.goal = 0
            if given:
                log.info("job %s: %d MB given back", domain.name, given // 1_000_000)
