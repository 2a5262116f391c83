"""The data-plane thread: registration, wake-ups, the agent's absence, the end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from functions.aggregator import runtime as runtime_module
from functions.aggregator.runtime import Runtime
from functions.aggregator.settings import AggregatorSettings
from lifl.dataplane import open_channel
from lifl.dataplane.relay import Relay
from lifl.errors import RegistrationError, Unavailable
from lifl.store import RoleRow, SlotState
from lifl.wire import Descriptor, Kind, Opcode, RouteType

PARENT = 2
LANE = 5


class Agent:
    """Stands in for the node's agent: a real pool and relay, registrations on demand."""

    def __init__(self, node) -> None:
        self.node = node
        self.relay = Relay()
        self.parent = self._channel(PARENT, Kind.COORDINATOR)
        self.opened: list[Registered] = []
        self.failures: list[Exception] = []
        self.changed = threading.Condition()
        self.next_endpoint = 10

    def _channel(self, endpoint, kind):
        fds = self.relay.plug(endpoint, 1, kind)
        return open_channel("socket", endpoint, fds)

    def open(self, path, *, kind, name, domain, token, timeout):
        assert (kind, name, domain, token) == ("aggregator", "agg-1", "digits", "a.b.c")
        if self.failures:
            raise self.failures.pop(0)
        endpoint, self.next_endpoint = self.next_endpoint, self.next_endpoint + 1
        made = Registered(self, endpoint)
        self.relay.set_route(endpoint, RouteType.ENDPOINT, PARENT)
        with self.changed:
            self.opened.append(made)
            self.changed.notify_all()
        return made

    def wait(self, condition) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 10)

    def role(self, row: RoleRow) -> None:
        self.node.pool.write_role(LANE, row)
        self.send(Descriptor(Opcode.WAKE, 0, 0, row.assignment))

    def send(self, d: Descriptor) -> None:
        self.relay.inject(self.opened[-1].endpoint, d)

    def received(self) -> Descriptor:
        (d,) = self.parent.recv(10)
        return d

    def close(self) -> None:
        self.relay.close()
        self.parent.close()


class Registered:
    """What Registration.open returns, as far as the runtime may know it."""

    def __init__(self, agent: Agent, endpoint: int) -> None:
        self.agent = agent
        self.endpoint = endpoint
        self.lane = LANE
        self.pool = agent.node.pool
        self.channel = agent._channel(endpoint, Kind.AGGREGATOR)
        self.here, self.there = socket.socketpair()
        self.readies = 0
        self.resumes = 0
        self.outcomes: list[Exception | None] = []
        self.closed = False

    def ready(self) -> None:
        with self.agent.changed:
            self.readies += 1
            self.agent.changed.notify_all()

    def fileno(self) -> int:
        return self.here.fileno()

    def lost(self) -> bool:
        try:
            return self.here.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def resume(self, path) -> None:
        with self.agent.changed:
            self.resumes += 1
            outcome = self.outcomes.pop(0) if self.outcomes else None
            self.agent.changed.notify_all()
        if outcome is not None:
            raise outcome
        self.here.close()
        self.here, self.there = socket.socketpair()

    def close(self) -> None:
        self.here.close()
        self.there.close()
        self.channel.close()
        with self.agent.changed:
            self.closed = True
            self.agent.changed.notify_all()


@pytest.fixture
def agent(node, monkeypatch, no_leaks) -> Iterator[Agent]:
    made = Agent(node)
    monkeypatch.setattr(runtime_module.Registration, "open", made.open)
    monkeypatch.setattr(runtime_module, "RECONNECT_SECONDS", 0.01)
    yield made
    made.close()


@pytest.fixture
def start(agent):
    """Return a function that starts a runtime; all are stopped at the end."""
    started = []

    def begin(patience: float = 30.0) -> Runtime:
        env = {
            "LIFL_DOMAIN": "digits",
            "LIFL_NAME": "agg-1",
            "LIFL_REGISTRATION": "a.b.c",
            "LIFL_AGENT_SOCKET": str(Path("/nowhere/agent.sock")),
            "LIFL_AGENT_PATIENCE": str(patience),
        }
        ended = threading.Event()
        made = Runtime(AggregatorSettings.from_env(env), ended.set)
        made.ended = ended  # type: ignore[attr-defined]
        started.append(made)
        made.start()
        return made

    yield begin
    for made in started:
        made.stop(10)
        os.close(made.doorbell)


def test_it_registers_serves_and_leaves(agent, start, node, schema, make_update, reference):
    run = start()
    assert run.settled.wait(10)
    assert run.ready
    agent.role(RoleRow(1, 1, 2, 0, True))
    updates = [make_update(1), make_update(2)]
    for arrays, n in zip(updates, (3, 5), strict=True):
        agent.send(node.upload(arrays, n))
    node.sink.append(agent.received())
    mean, _, weight, cover = node.collect()
    np.testing.assert_allclose(mean, reference(schema, updates, [3, 5]), rtol=1e-5, atol=1e-5)
    assert (weight, cover) == (8, {1, 2})
    _until(lambda: run.open_sums == 0)
    run.stop(10)
    assert agent.opened[0].closed
    assert agent.opened[0].readies == 1
    assert not run.alive
    assert not run.ended.is_set()


def test_it_takes_no_processor_from_who_wakes_it(start):
    run = start()
    assert run.settled.wait(10)
    assert os.sched_getscheduler(run._thread.native_id) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER  # HTTP threads are not


def test_the_role_is_read_when_a_new_assignment_shows_up(agent, start, node, make_update):
    run = start()
    assert run.settled.wait(10)
    node.pool.write_role(LANE, RoleRow(4, 1, 1, 0, True))  # no WAKE
    agent.send(node.upload(make_update(1), 3, assignment=4))
    d = agent.received()
    assert d.assignment == 4
    assert node.pool.entry(d.slot).layout == 2


def test_sigterm_seals_and_sends_what_is_held(agent, start, node, make_update):
    run = start()
    assert run.settled.wait(10)
    agent.role(RoleRow(1, 1, 9, 1, True))
    agent.send(node.upload(make_update(1), 3))
    _until(lambda: run.open_sums == 1)
    run.stop(10)
    d = agent.received()
    assert node.pool.entry(d.slot).weight == 3.0


def test_it_works_on_without_the_agent_and_registers_again(agent, start, node, make_update):
    run = start()
    assert run.settled.wait(10)
    first = agent.opened[0]
    agent.role(RoleRow(1, 1, 2, 0, True))
    agent.send(node.upload(make_update(1), 3))
    _until(lambda: run.open_sums == 1)
    first.outcomes = [Unavailable("away")] * 3
    first.there.close()
    agent.wait(lambda: first.resumes >= 2)
    agent.send(node.upload(make_update(2), 5))
    assert node.pool.entry(agent.received().slot).weight == 8.0
    agent.wait(lambda: first.resumes == 4)
    assert run.ready
    assert len(agent.opened) == 1


@pytest.mark.parametrize("how", ["refused", "unplugged"])
def test_given_up_by_the_agent_it_starts_anew(agent, start, node, make_update, how):
    run = start()
    assert run.settled.wait(10)
    first = agent.opened[0]
    agent.role(RoleRow(1, 1, 2, 0, True))
    agent.send(node.upload(make_update(1), 3))
    _until(lambda: run.open_sums == 1)
    if how == "refused":
        first.outcomes = [RegistrationError("given up")]
        first.there.close()
    else:
        agent.relay.unplug(first.endpoint)
    agent.wait(lambda: len(agent.opened) == 2 and agent.opened[1].readies == 1)
    assert first.closed
    assert run.open_sums == 0
    assert node.pool.recover(first.endpoint).redispatch
    (ref,) = node.pool.find(state=SlotState.SEALED)
    agent.send(Descriptor(Opcode.OBJECT, *ref, 1))
    agent.send(node.upload(make_update(2), 5))
    assert node.pool.entry(agent.received().slot).weight == 8.0


def test_it_ends_when_no_agent_comes_back(agent, start, node, make_update):
    run = start(patience=0.05)
    assert run.settled.wait(10)
    agent.role(RoleRow(1, 1, 2, 0, True))
    agent.send(node.upload(make_update(1), 3))
    _until(lambda: run.open_sums == 1)
    first = agent.opened[0]
    first.outcomes = [Unavailable("away")] * 1000
    first.there.close()
    assert run.ended.wait(10)
    assert agent.received().assignment == 1
    assert first.closed


def test_it_waits_for_an_agent_and_says_why(agent, start, caplog):
    agent.failures = [Unavailable("nobody"), RegistrationError("no job digits")]
    run = start()
    assert run.settled.wait(10)
    assert run.ready
    assert "no job digits" in caplog.text


def test_it_ends_when_there_never_was_an_agent(agent, start, caplog):
    agent.failures = [Unavailable("nobody")] * 1000
    run = start(patience=0.05)
    assert run.ended.wait(10)
    assert run.settled.is_set()
    assert not run.ready
    assert "no agent took this function" in caplog.text


def test_an_unforeseen_error_ends_the_process_loudly(agent, start, caplog):
    agent.failures = [RuntimeError("a bug")]
    run = start()
    assert run.ended.wait(10)
    assert "a bug" in caplog.text


def test_a_full_pool_is_tried_again(agent, start, node, make_update):
    run = start()
    assert run.settled.wait(10)
    agent.role(RoleRow(1, 1, 1, 0, True))
    d = node.upload(make_update(1), 3)
    others = [node.pool.reserve(1, 1, 1) for _ in range(node.pool.usage().free)]
    agent.send(d)
    _until(lambda: run.stats.no_room >= 2)
    node.pool.drop(others[0], 1)
    assert agent.received().assignment == 1


def _until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
