"""What this node is, and making it so: domains, functions, routes, role rows.

Why: whatever changes (a plan, a member, an assignment's end), the consequence is
the same: routes, groups and role rows are brought to what follows from plan and
members, and what the next agent must know is written down. Each operation may be
repeated.

It must not read sockets or the clock; :mod:`ebpf.agent.server` does.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ebpf.agent import state
from ebpf.agent.domains import Domain, check_geometry
from ebpf.agent.plans import View, reserve_for_outputs, unplanned
from ebpf.agent.registry import Endpoint, Registry
from ebpf.agent.settings import AgentSettings
from ebpf.agent.settle import Dispatcher, Item, Send
from ebpf.agent.warming import slots_needed
from ebpf.agent.work import Reading
from lifl.dataplane.api import Switch
from lifl.errors import ConfigError, NotDelivered, PoolBusy, PoolDamaged
from lifl.naming import check_name
from lifl.store import PoolGeometry, SlotKind, SlotRef
from lifl.topology import Plan
from lifl.wire import Descriptor, Kind, Opcode, RouteType


class Node:
    """One node's domains and functions, and the switch and pools that obey."""

    def __init__(self, settings: AgentSettings, switch: Switch) -> None:
        self.settings = settings
        self.switch = switch
        self.registry = Registry()
        self.domains: dict[str, Domain] = {}
        self.plugged: set[int] = set()
        """Endpoints this agent plugged or adopted."""
        self.events: Counter[str] = Counter()
        self.epoch = 1
        self._next_domain = 1

    # -- domains ------------------------------------------------------------------

    def domain(self, name: str) -> Domain:
        """Return a job's domain; raises ConfigError if it has none here."""
        try:
            return self.domains[name]
        except KeyError:
            raise ConfigError(f"node {self.settings.node} has no job {name[:80]!r}") from None

    def create_domain(self, name: str, uid: int, geometry: PoolGeometry, prefault: int) -> Domain:
        """Make a domain and its pool; the one that is there if it is the same.

        Raises
        ------
        ConfigError
            if it is there with another user or geometry, or the geometry is unusable.
        """
        check_name(name, "job")
        known = self.domains.get(name)
        if known is not None:
            if (known.uid, known.geometry) != (uid, geometry):
                raise ConfigError(
                    f"job {name} is here with user {known.uid} and {known.geometry}; "
                    "remove it first"
                )
            return known
        dispatcher = Dispatcher(self.settings.sweep_age)
        domain = Domain(
            self._next_domain, name, uid, check_geometry(geometry), prefault, dispatcher
        )
        domain.create_pool()
        self._next_domain += 1
        self.domains[name] = domain
        self.save()
        return domain

    def forget_domain(self, domain: Domain) -> None:
        """Drop a domain whose functions were given up, and its memory."""
        del self.domains[domain.name]
        self.switch.del_group(domain.number)
        if domain.pool is not None:
            domain.pool.close()
            domain.pool = None
        self.save()

    # -- assignments ----------------------------------------------------------------

    def apply(self, plan: Plan) -> list[str]:
        """Put a plan in force; return the aggregators of this node not there yet."""
        domain = self.domain(plan.job)
        before = domain.plans.get(plan.assignment)
        if domain.apply(plan):
            domain.idle_since = None
            domain.hurry = True
            self._warm(domain, plan)
            if before is not None:
                self._retire_roles(domain, before, plan)
            self.wire(domain)
            self.save()
        view = self.view(domain, plan.assignment)
        return view.missing if view else []

    def _warm(self, domain: Domain, plan: Plan) -> None:
        """Have pages made for what a plan brings here."""
        if self.settings.pool_warm <= 0:
            return
        here = plan.on(self.settings.node)
        own = plan.own()
        expected = sum(own[r.name] for r in here)
        needed = slots_needed(expected, len(here), domain.geometry.slots)
        domain.warming.goal = max(domain.warming.goal, needed)

    def _retire_roles(self, domain: Domain, before: Plan, after: Plan) -> None:
        """Have aggregators that lose their role in an assignment send on what they hold."""
        here = self.settings.node
        lost = {r.name for r in before.on(here)} - {r.name for r in after.on(here)}
        for endpoint in self.registry.live(domain):
            if endpoint.kind is Kind.AGGREGATOR and endpoint.name in lost:
                self.flush(endpoint.number, after.assignment)

    def close_assignment(self, job: str, assignment: int) -> None:
        """Settle an assignment from now on, until it is ended."""
        domain = self.domain(job)
        if assignment in domain.plans:
            domain.closing.add(assignment)
            domain.hurry = True
            # a flush under pressure just before must not hold up the one that ends the round
            domain.flushed = {k: at for k, at in domain.flushed.items() if k[1] != assignment}
            self.save()

    def end_assignment(self, job: str, assignment: int) -> None:
        """Forget an assignment; the sweeper clears what is left of it."""
        domain = self.domain(job)
        current = domain.plan
        domain.end(assignment)
        if current is not None and current.assignment == assignment:
            self.wire(domain)
        if not domain.plans:
            domain.names.clear()
        self.save()

    # -- routes and roles -------------------------------------------------------------

    def view(self, domain: Domain, assignment: int) -> View | None:
        """Return an assignment's plan as this node sees it now; None if there is none."""
        plan = domain.plans.get(assignment)
        if plan is None:
            return None
        return View(
            plan,
            self.settings.node,
            self.registry.members(domain),
            coordinator_here=domain.coordinator_here,
        )

    def wire(self, domain: Domain) -> None:
        """Bring role rows, routes and the group to what plan and members say.

        Rows and routes come before the group: who gets updates knows where to go on.
        """
        pool = domain.pool
        if pool is None:
            return
        members = self.registry.members(domain)
        view = self.view(domain, domain.plan.assignment) if domain.plan else None
        wiring = view.wiring(domain.number) if view else unplanned(members)
        changed = []
        try:
            for member in members:
                row = wiring.rows.get(member.lane)
                if row is not None and pool.read_role(member.lane) != row:
                    pool.write_role(member.lane, row)
                    changed.append((member.endpoint, row.assignment))
        except PoolBusy:
            domain.rewire = True
        pool.reserved = reserve_for_outputs(len(view.roles) if view else 0, domain.geometry.slots)
        for endpoint, (type_, target) in wiring.routes.items():
            if endpoint in self.plugged:
                self.switch.set_route(endpoint, RouteType(type_), target)
        self.switch.set_group(domain.number, wiring.group, wiring.cycle)
        for endpoint, assignment in changed:
            self._inject(endpoint, Descriptor(Opcode.WAKE, 0, 0, assignment))

    # -- descriptors the agent sends ----------------------------------------------------

    def flush(self, endpoint: int, assignment: int) -> None:
        """Tell an aggregator to seal and send what it holds of an assignment."""
        self.events["flushes"] += 1
        self._inject(endpoint, Descriptor(Opcode.FLUSH, 0, 0, assignment))

    def send(self, sends: Sequence[Send]) -> None:
        """Send objects' descriptors; one that is not delivered is found again by the sweeper."""
        for endpoint, (ref, entry) in sends:
            self.events["redispatches"] += 1
            d = Descriptor(Opcode.OBJECT, ref.slot, ref.generation, entry.assignment, entry.pages)
            self._inject(endpoint, d)

    def dispatch(self, domain: Domain, refs: Sequence[SlotRef]) -> None:
        """Send sealed objects to where their kind belongs."""
        if domain.pool is None:
            return
        for ref in refs:
            if not 0 <= ref.slot < domain.geometry.slots:
                continue
            try:
                item = Item(ref, domain.pool.entry(ref.slot))
            except PoolDamaged:
                return  # the sweeper sees to it
            view = self.view(domain, item.entry.assignment)
            if view is None or item.entry.kind is SlotKind.MODEL:
                continue
            if send := domain.dispatcher.send(view, item, domain.names):
                self.send([send])

    def _inject(self, endpoint: int, d: Descriptor) -> None:
        with contextlib.suppress(NotDelivered):
            self.switch.inject(endpoint, d)

    # -- what outlives the agent ----------------------------------------------------------

    def save(self) -> None:
        """Write down what the next agent must know."""
        state.save(
            self.settings.state_file,
            {
                "epoch": self.epoch,
                "next_domain": self._next_domain,
                "next_endpoint": self.registry.next_number,
                "domains": [d.to_json() for d in self.domains.values()],
                "endpoints": [e.to_json() for e in self.registry],
            },
        )

    def restore(self, raw: dict[str, Any]) -> None:
        """Take over numbers and domains from the last agent; functions: Membership.restore."""
        self.epoch = raw["epoch"] + 1
        self._next_domain = raw["next_domain"]
        self.registry.next_number = raw["next_endpoint"]
        for item in raw["domains"]:
            dispatcher = Dispatcher(self.settings.sweep_age)
            domain = Domain.from_json(item, dispatcher)
            self.domains[domain.name] = domain

    def info(self) -> dict[str, Any]:
        """Say who this is."""
        return {
            "node": self.settings.node,
            "dataplane": self.switch.name,
            "epoch": self.epoch,
            "pid": os.getpid(),
        }

    def work(self) -> dict[str, Reading]:
        """Return of each job how many updates came, were summed, and how long that took.

        Since the agent's start, or the job's if that was later.
        """
        counters = self.switch.counters()
        readings: dict[str, dict[int, Reading]] = {name: {} for name in self.domains}
        for e in self.registry.live():
            if e.kind is Kind.GATEWAY and e.number in counters:
                reading = Reading(arrived=counters[e.number].tx_messages)
            elif e.kind is Kind.AGGREGATOR and e.domain.pool is not None:
                reading = Reading(0, *e.domain.pool.read_work(e.lane))
            else:
                continue
            readings[e.domain.name][e.number] = reading
        return {name: self.domains[name].ledger.note(found) for name, found in readings.items()}

    def describe(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return what the admin socket says about one function, counters aside."""
        plan = endpoint.domain.plan
        role = plan is not None and any(
            r.name == endpoint.name for r in plan.on(self.settings.node)
        )
        return {
            "endpoint": endpoint.number,
            "name": endpoint.name,
            "kind": endpoint.kind.name.lower(),
            "domain": endpoint.domain.name,
            "pid": endpoint.process.pid,
            "uid": endpoint.process.uid,
            "ready": endpoint.ready,
            "lane": endpoint.lane,
            "assignment": plan.assignment if plan is not None and role else 0,
        }
