"""The aggregator's data-plane thread: registration, the waiting, the machine's turn.

Why: one thread owns the machine, so nothing in it needs a lock; HTTP threads
only read counters. It waits for descriptors without polling, and costs nothing
while idle.

The agent's absence is not this function's end: descriptors go on flowing through
the kernel while it tries to register again. Only when no agent has answered for
``patience`` seconds it gives up, since then nobody will ever start, stop or flush
it.

It must not know what an update is or what the machine decides.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable

from functions.aggregator.blas import Kernel, best_kernel
from functions.aggregator.machine import Machine
from functions.aggregator.performer import Performer, patiently
from functions.aggregator.settings import AggregatorSettings
from functions.aggregator.stats import Stats
from functions.aggregator.steps import Drained, Event, Fenced, Flush, Received, Retry, RoleChanged
from functions.aggregator.team import Team
from lifl.dataplane.registration import Registration
from lifl.errors import LiflError, RegistrationError, Unavailable
from lifl.wire import Opcode

RECONNECT_SECONDS = 0.2
REGISTER_SECONDS = 1.0
IDLE_SECONDS = 0.02

log = logging.getLogger("lifl.aggregator")


def drive(machine: Machine, performer: Performer, event: Event) -> None:
    """Tell the machine of an event, and of all that comes of what it asks for."""
    void: int | None = None
    for step in machine.on(event):
        if void is not None and getattr(step, "assignment", None) == void:
            continue  # it was about a sum that is void now
        answer = performer.perform(step)
        if answer is not None:
            drive(machine, performer, answer)
        if isinstance(answer, Fenced):
            void = answer.assignment


class Runtime:
    """One aggregator in this process.

    ``on_end`` is called in the data-plane thread when that ends by itself: the
    agent is gone for good, or something failed that should not.
    """

    def __init__(self, settings: AggregatorSettings, on_end: Callable[[], None]) -> None:
        self.stats = Stats()
        self.settled = threading.Event()
        """Set once the function is registered, or will never be."""
        self.stopping = threading.Event()
        self.doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._settings = settings
        self._on_end = on_end
        self._machine = Machine()
        self._serving = False
        self._thread = threading.Thread(target=self._main, name="dataplane")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Seal and send what is held, leave the node's agent, and wait for that."""
        self.stopping.set()
        os.eventfd_write(self.doorbell, 1)
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether it is registered and serves descriptors."""
        return self._serving and self.alive

    @property
    def open_sums(self) -> int:
        """Of how many assignments something is held."""
        return len(self._machine.open)

    def _main(self) -> None:
        _let_others_wake_first()
        try:
            kernel = best_kernel()
            with contextlib.closing(Team(kernel, self._settings.threads)) as team:
                while (registration := self._register()) is not None and self._serve(
                    registration, kernel, team
                ):
                    log.warning("what was held is void; registering anew")
        except Exception:
            log.critical("the data-plane thread failed; the process ends", exc_info=True)
        finally:
            self.settled.set()
            if not self.stopping.is_set():
                self._on_end()

    def _serve(self, registration: Registration, kernel: Kernel, team: Kernel) -> bool:
        """Serve under one registration; return whether to register anew."""
        self._machine = Machine()
        performer = Performer(
            registration.pool,
            registration.channel,
            registration.endpoint,
            kernel,
            self.stats,
            team=team,
            lane=registration.lane,
        )
        try:
            registration.ready()
            self._serving = True
            self.settled.set()
            log.info(
                "registered as endpoint %d on lane %d; the sum kernel is %s",
                registration.endpoint,
                registration.lane,
                team.name,
            )
            return _Session(self, registration, self._machine, performer, self._settings).run()
        finally:
            self._serving = False
            registration.close()

    def _register(self) -> Registration | None:
        function = self._settings.function
        deadline = time.monotonic() + self._settings.patience
        while not self.stopping.is_set():
            try:
                return Registration.open(
                    function.agent_socket,
                    kind="aggregator",
                    name=function.name,
                    domain=self._settings.domain,
                    token=function.registration,
                    timeout=REGISTER_SECONDS,
                )
            except LiflError as e:
                log.warning("cannot register with %s: %s", function.agent_socket, e)
            if time.monotonic() > deadline:
                log.error("no agent took this function for %.0f s", self._settings.patience)
                return None
            self.stopping.wait(RECONNECT_SECONDS)
        return None


class _Session:
    """What the thread does under one registration."""

    def __init__(
        self,
        runtime: Runtime,
        registration: Registration,
        machine: Machine,
        performer: Performer,
        settings: AggregatorSettings,
    ) -> None:
        self._runtime = runtime
        self._registration = registration
        self._machine = machine
        self._performer = performer
        self._agent_socket = settings.function.agent_socket
        self._patience = settings.patience
        self._lost_at: float | None = None
        self._poll = select.poll()
        self._data_fd = registration.channel.fileno()
        self._agent_fd = registration.fileno()

    def run(self) -> bool:
        """Serve until told to stop or the agent is gone for good; return whether to go on anew."""
        for fd in (self._data_fd, self._agent_fd, self._runtime.doorbell):
            self._poll.register(fd, select.POLLIN)
        try:
            self._read_role()
            while not self._runtime.stopping.is_set():
                events = self._poll.poll(self._wait_ms())
                if not events:
                    self._look_around()
                for fd, _ in events:
                    if fd == self._data_fd:
                        self._drain()
                    elif fd == self._agent_fd:
                        self._check_agent()
                self._retry()
                if self._lost_at is not None and not self._resume(self._lost_at):
                    break
        except (Unavailable, RegistrationError) as e:
            log.warning("the agent gave this function up: %s", e)
            return True
        for assignment in self._machine.open:
            self._tell(Flush(assignment))
        return False

    def _wait_ms(self) -> float | None:
        waits = []
        if self._lost_at is not None:
            waits.append(RECONNECT_SECONDS)
        if self._performer.retry_at is not None:
            waits.append(max(0.0, self._performer.retry_at - time.monotonic()))
        if self._registration.pool.unmapped() is not None:
            waits.append(IDLE_SECONDS)
        return 1000 * min(waits) if waits else None

    def _look_around(self) -> None:
        """Map a slot's pages while nothing is to do: it takes as long as adding it up."""
        slot = self._registration.pool.unmapped()
        if slot is not None:
            self._registration.pool.map_slot(slot)

    def _drain(self) -> None:
        while descriptors := self._registration.channel.recv(0):
            for descriptor in descriptors:
                wake = descriptor.opcode is Opcode.WAKE
                if wake or not self._machine.knows(descriptor.assignment):
                    self._read_role()
                self._tell(Received(descriptor, more=True))
        self._tell(Drained())

    def _read_role(self) -> None:
        pool, lane = self._registration.pool, self._registration.lane
        self._tell(RoleChanged(patiently(lambda: pool.read_role(lane))))

    def _tell(self, event: Event) -> None:
        drive(self._machine, self._performer, event)

    def _retry(self) -> None:
        at = self._performer.retry_at
        if at is not None and time.monotonic() >= at:
            self._performer.retry_at = None
            self._tell(Retry())

    def _check_agent(self) -> None:
        if self._registration.lost():
            log.warning("the agent is gone; working on and trying to register again")
            self._poll.unregister(self._agent_fd)
            self._lost_at = time.monotonic()

    def _resume(self, lost_at: float) -> bool:
        """Try to register again; returns False when it is time to give up."""
        try:
            self._registration.resume(self._agent_socket)
        except Unavailable as e:
            if time.monotonic() - lost_at < self._patience:
                return True
            log.warning("no agent for %.0f s; the process ends: %s", self._patience, e)
            return False
        log.info("registered again")
        self._lost_at = None
        self._agent_fd = self._registration.fileno()
        self._poll.register(self._agent_fd, select.POLLIN)
        self._read_role()
        return True


def _let_others_wake_first() -> None:
    """Have this thread, and those it starts, take no processor away from who woke it.

    A descriptor wakes an aggregator for ten milliseconds of work; the gateway that sent it has
    the next update to receive. As batch work a sum begins when a processor is free, or its share
    is due (sched(7)).
    """
    with contextlib.suppress(OSError):  # a container may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
