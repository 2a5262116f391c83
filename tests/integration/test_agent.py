"""The node agent as a process, with real functions, on both data planes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lifl.dataplane.registration import Registration
from lifl.errors import ConfigError, NotDelivered, RegistrationError
from lifl.store import Seal, SlotKind, SlotRef, SlotState
from lifl.topology import Level, Plan, Role, Timing
from lifl.wire import Opcode

from .agent_kit import (
    GEOMETRY,
    JOB,
    LONE,
    NODE,
    PAIR,
    ROOT,
    TWO_LEVELS,
    Agent,
    Function,
    final,
    named,
    plan,
    put,
    registered,
    running,
    starting,
    take_one,
    until,
)


@pytest.fixture(params=["socket", pytest.param("ebpf", marks=pytest.mark.ebpf)])
def agent(request: pytest.FixtureRequest) -> Iterator[Agent]:
    with running(request.param) as agent:
        yield agent


@pytest.fixture
def functions(agent: Agent) -> Iterator[Callable[..., Function]]:
    with starting(agent) as start:
        yield start


@pytest.fixture
def gateway(agent: Agent) -> Iterator[Registration]:
    yield from registered(agent, "gateway", "gateway-0")


@pytest.fixture
def coordinator(agent: Agent) -> Iterator[Registration]:
    yield from registered(agent, "coordinator", "coordinator")


def test_an_update_goes_from_gateway_to_coordinator(agent, functions, gateway, coordinator):
    assert agent.admin.apply(TWO_LEVELS) == ["agg-1", "agg-2", "agg-top"]
    top, one, two = functions("agg-top"), functions("agg-1"), functions("agg-2")
    assert agent.admin.apply(TWO_LEVELS) == []
    assert one.ask("role")["final"] is False
    assert top.ask("role") == {
        "assignment": 1,
        "epoch": 1,
        "goal": 2,
        "timing": 0,
        "final": True,
        "lo": 0,
        "hi": 0,
        "parent_remote": False,
    }
    for serial in (1, 2):
        put(gateway, serial)
    for leaf in (one, two):  # in turn: each expects one
        take_one(leaf)
        leaf.ask("seal")
    for _ in range(2):
        take_one(top)
    top.ask("seal")
    cover, total = final(coordinator)
    assert (sorted(cover), total) == ([1, 2], 3.0)
    until(lambda: agent.admin.pools()[JOB].free == GEOMETRY.slots)
    assert named(agent, "gateway-0")["counters"]["tx_messages"] == 2
    agent.admin.create_domain("other", os.geteuid(), GEOMETRY, 0)
    until(lambda: agent.admin.look()["work"] == {JOB: [2, 0, 0, 0], "other": [0, 0, 0, 0]})
    assert named(agent, "agg-top")["counters"]["rx_messages"] == 2
    assert coordinator.pool.reserved == 8


def test_a_function_that_is_not_ready_gets_nothing(agent, functions, gateway):
    functions("agg-1", ready=False)
    agent.admin.apply(LONE)
    with pytest.raises(NotDelivered):
        put(gateway, 1)


def test_an_update_that_found_nobody_is_sent_when_somebody_is_there(agent, functions, gateway):
    agent.admin.apply(LONE)
    ref = put(gateway, 1, send=False)
    function = functions("agg-1")
    assert set(function.objects()) == {ref}


other_users = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@other_users
def test_the_wrong_user_and_job_are_refused(agent):
    stranger = Function(agent, "agg-1", user=65534)
    assert stranger.hello["error"] == "RegistrationError"
    assert "not 65534" in stranger.hello["detail"]
    stranger.close()
    gateway = Function(agent, "gateway-9", kind="gateway", user=65534)
    assert gateway.hello["error"] == "RegistrationError"
    gateway.close()
    with pytest.raises(RegistrationError, match="no job"):
        Registration.open(agent.socket, kind="gateway", name="g", domain="other", timeout=0.1)


@other_users
def test_the_wrong_user_cannot_administer(agent):
    code = (
        "import os; from lifl.dataplane.admin import AgentAdmin; os.setuid(65534)\n"
        f"AgentAdmin({os.fspath(agent.socket.with_name('admin.sock'))!r}).info()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"Permission denied" in done.stderr


def test_a_name_in_use_is_refused_until_its_holder_is_gone(agent, functions):
    first = functions("agg-1")
    second = Function(agent, "agg-1")
    assert second.hello["error"] == "RegistrationError"
    second.close()
    first.kill()
    third = functions("agg-1")
    assert third.hello["endpoint"] > first.hello["endpoint"]


def test_a_domain_is_the_same_again_or_refused(agent):
    assert agent.admin.create_domain(JOB, os.getuid(), GEOMETRY) == 1
    with pytest.raises(ConfigError, match="remove it first"):
        agent.admin.create_domain(JOB, os.getuid() + 1, GEOMETRY)
    assert agent.admin.create_domain("other", os.getuid(), GEOMETRY) == 2
    agent.admin.remove_domain("other")
    agent.admin.remove_domain("other")
    assert [d["name"] for d in agent.admin.domains()] == [JOB]


def test_removing_a_domain_cuts_its_functions_off(agent, functions):
    functions("agg-1")
    gateway = Registration.open(agent.socket, kind="gateway", name="gateway-0", domain=JOB)
    agent.admin.remove_domain(JOB)
    until(gateway.lost)
    with pytest.raises(RegistrationError):
        gateway.resume()
    gateway.close()
    assert agent.admin.endpoints() == []


@pytest.mark.parametrize("sealed", [False, True])
def test_a_killed_aggregators_inputs_go_to_another_once(
    agent, functions, gateway, coordinator, sealed
):
    agent.admin.apply(PAIR)
    first, top = functions("agg-1"), functions("agg-top")
    put(gateway, 1)
    put(gateway, 2)
    refs = first.objects()
    while len(refs) < 2:
        refs += first.objects()
    for ref in refs:
        first.ask("take", **ref._asdict())
    if sealed:  # committed, but the descriptor was never sent
        first.ask("seal", send=False)
    first.kill()
    if not sealed:
        second = functions("agg-1")
        again = {r.slot for r in refs}
        while again:
            again.discard(take_one(second).slot)
        second.ask("seal")
    take_one(top)
    top.ask("seal")
    cover, total = final(coordinator)
    assert (sorted(cover), total) == ([1, 2], 3.0)


def test_descriptors_lost_in_a_killed_receivers_queue_are_sent_again(agent, functions, gateway):
    agent.admin.apply(TWO_LEVELS)
    functions("agg-top")
    one = functions("agg-1")
    sent = {put(gateway, serial) for serial in (1, 2, 3)}
    one.kill()  # it never read its queue
    two = functions("agg-2")
    got: set[SlotRef] = set()
    deadline = time.monotonic() + 5.0
    while got != sent and time.monotonic() < deadline:
        got.update(two.objects(timeout=0.2))
    assert got == sent


def test_an_update_whose_gateway_died_is_sent(agent, functions):
    agent.admin.apply(LONE)
    function = functions("agg-1")
    gateway = Registration.open(agent.socket, kind="gateway", name="gateway-0", domain=JOB)
    ref = put(gateway, 7, send=False)
    gateway.close()
    assert set(function.objects()) == {ref}


def test_closing_flushes_bottom_up(agent, functions, gateway, coordinator):
    agent.admin.apply(TWO_LEVELS)
    top, one, two = functions("agg-top"), functions("agg-1"), functions("agg-2")
    put(gateway, 1)
    put(gateway, 2)
    for leaf in (one, two):
        take_one(leaf)
    one.ask("seal")  # reached its goal; two did not
    take_one(top)
    agent.admin.close_assignment(JOB, 1)
    two.await_flush()
    assert [d for d in top.ask("recv", timeout=0.3)["descriptors"] if d[0] == Opcode.FLUSH] == []
    two.ask("seal")
    take_one(top)
    top.await_flush()
    top.ask("seal")
    cover, total = final(coordinator)
    assert (sorted(cover), total) == ([1, 2], 3.0)


def test_an_ended_assignment_leaves_nothing(agent, functions, gateway):
    agent.admin.apply(LONE)
    function = functions("agg-1")
    put(gateway, 1)
    take_one(function)
    put(gateway, 2)
    agent.admin.end_assignment(JOB, 1)
    assert agent.admin.apply(LONE) == []  # over: not put in force again
    assert function.ask("role")["assignment"] == 0
    function.await_flush()
    assert function.ask("seal", send=False)
    until(lambda: agent.admin.pools()[JOB].free == GEOMETRY.slots)


def test_pool_pressure_flushes(agent, functions, gateway):
    leaf, top = ("agg-1", Level.LEAF, "agg-top"), ("agg-top", Level.TOP, None)
    agent.admin.apply(plan(leaf, top, assignment=1))
    function = functions("agg-1")
    free = agent.admin.pools()[JOB].free - gateway.pool.reserved
    for serial in range(free - 1):
        put(gateway, serial)
        take_one(function)
    function.await_flush()


def test_an_older_plan_changes_nothing_and_a_newer_one_moves_roles(agent, functions, gateway):
    one, two = functions("agg-1"), functions("agg-2")
    agent.admin.apply(plan(("agg-1", Level.TOP, None), epoch=2))
    agent.admin.apply(plan(("agg-2", Level.TOP, None), epoch=1))
    put(gateway, 1)
    take_one(one)
    agent.admin.apply(plan(("agg-2", Level.TOP, None), epoch=3))
    one.await_flush()  # it has no role any more
    put(gateway, 2)
    take_one(two)
    assert one.ask("role")["assignment"] == 0
    assert two.ask("role")["epoch"] == 3


def test_a_killed_agent_loses_nothing(agent, functions, gateway, coordinator):
    agent.admin.apply(PAIR)
    leaf, top = functions("agg-1"), functions("agg-top")
    put(gateway, 1)
    take_one(leaf)
    epoch = agent.admin.info()["epoch"]
    agent.stop(signal.SIGKILL)
    until(gateway.lost)
    put(gateway, 2, send=False)  # sealed while no agent runs
    if agent.env["LIFL_DATAPLANE"] == "ebpf":  # the kernel goes on
        put(gateway, 3)
        take_one(leaf)
    agent.start()
    gateway.resume(timeout=5.0)
    coordinator.resume(timeout=5.0)
    for function in (leaf, top):
        assert function.ask("resume") == {}
    assert agent.admin.info()["epoch"] == epoch + 1
    take_one(leaf)
    assert leaf.ask("seal").get("error") is None
    take_one(top)
    top.ask("seal")
    cover, _ = final(coordinator)
    assert sorted(cover) == ([1, 2, 3] if agent.env["LIFL_DATAPLANE"] == "ebpf" else [1, 2])
    assert agent.events("resumptions") == 4


def test_a_function_that_dies_while_the_agent_is_away_is_recovered(agent, functions, gateway):
    agent.admin.apply(TWO_LEVELS)
    one, two = functions("agg-1"), functions("agg-2")
    put(gateway, 1)
    owner = one if (found := one.objects(timeout=0.3)) else two
    [ref] = set(found or two.objects())
    other = two if owner is one else one
    owner.ask("take", **ref._asdict())
    agent.stop(signal.SIGKILL)
    owner.kill()
    agent.start()
    gateway.resume(timeout=5.0)
    assert other.ask("resume") == {}
    [again] = set(other.objects())
    assert again.slot == ref.slot
    assert again.generation != ref.generation


def test_a_function_that_does_not_come_back_is_fenced(agent, functions, gateway):
    agent.admin.apply(TWO_LEVELS)
    one, two = functions("agg-1"), functions("agg-2")
    put(gateway, 1)
    put(gateway, 2)
    for function in (one, two):
        take_one(function)
    agent.stop(signal.SIGKILL)
    agent.start(LIFL_RESTART_GRACE="0.5")
    gateway.resume(timeout=5.0)
    assert two.ask("resume") == {}
    take_one(two)  # the input of the one that stayed away
    assert one.ask("resume")["error"] == "RegistrationError"
    assert one.ask("seal", send=False)["error"] == "Fenced"


def test_a_pool_that_nobody_held_is_made_anew(agent, gateway):
    agent.stop(signal.SIGKILL)
    gateway.close()
    agent.start(LIFL_RESTART_GRACE="0.5")
    again = Registration.open(agent.socket, kind="gateway", name="gateway-0", domain=JOB)
    assert again.pool.usage().free == GEOMETRY.slots
    again.close()


def test_a_zombie_cannot_publish_or_harm(agent, functions, gateway):
    agent.admin.apply(TWO_LEVELS)
    one = functions("agg-1")
    first = put(gateway, 5)
    take_one(one)
    zombie_output = next(
        r for r in gateway.pool.find(state=SlotState.WRITING, kind=SlotKind.PARTIAL)
    )
    os.kill(one.process.pid, signal.SIGSTOP)
    two = functions("agg-2")
    assert agent.admin.fence("agg-1") == 1
    again = take_one(two)
    assert again.slot == first.slot
    held = {r.slot for r in gateway.pool.find(owner=one.hello["endpoint"])}
    assert held == {zombie_output.slot}  # kept out of use while it may still be written
    os.kill(one.process.pid, signal.SIGCONT)
    one.ask("scribble", value=1e9)
    assert one.ask("seal", send=False)["error"] == "Fenced"
    sealed = two.ask("seal", send=False)
    assert gateway.pool.floats(sealed["slot"])[0] == np.float32(5)
    one.kill()
    until(lambda: gateway.pool.entry(zombie_output.slot).state is SlotState.FREE)


def test_what_a_zombie_takes_after_its_fence_is_taken_back(agent, functions, gateway):
    agent.admin.apply(TWO_LEVELS)
    one = functions("agg-1")
    assert agent.admin.fence("agg-1") == 1
    two = functions("agg-2")
    ref = put(gateway, 5, send=False)
    assert "error" not in one.ask("take", **ref._asdict(), output=False)
    [again] = set(two.objects())
    assert (again.slot, again.generation) == (ref.slot, ref.generation + 1)


def test_a_process_that_sits_on_the_table_is_killed(agent, functions, gateway):
    agent.admin.apply(LONE)
    one = functions("agg-1")
    one.ask("hold_table")
    os.kill(one.process.pid, signal.SIGSTOP)
    one.process.wait(10.0)
    assert one.process.returncode == -signal.SIGKILL
    one.close()
    until(lambda: agent.events("kills") == 1)
    put(gateway, 1, send=False)


def test_a_partial_from_another_node_is_dispatched_to_the_top(agent, functions, gateway):
    roles = (
        Role("agg-1", NODE, Level.LEAF, 2, "agg-top"),
        Role("agg-9", "node-1", Level.LEAF, 2, "agg-top"),
        Role("agg-top", NODE, Level.TOP, 2),
    )
    agent.admin.apply(Plan(JOB, 1, 1, Timing.EAGER, roles))
    functions("agg-1")
    top = functions("agg-top")
    pool = gateway.pool
    ref = pool.reserve(SlotKind.PARTIAL, gateway.endpoint, 1)
    pool.seal(ref, gateway.endpoint, Seal(0, 2.0, 4096, 8192, cover=(8, 9)))
    gateway.dispatch(ref)
    assert set(top.objects()) == {ref}


def test_a_gevent_process_registers_and_resumes(agent, gateway):
    agent.admin.apply(LONE)
    function = Function(agent, "agg-1", gevent=True)
    function.ask("ready")
    until(lambda: named(agent, "agg-1")["ready"])
    agent.stop(signal.SIGKILL)
    agent.start()
    gateway.resume(timeout=5.0)
    assert function.ask("resume") == {}
    put(gateway, 1)
    take_one(function)
    assert "error" not in function.ask("seal", send=False)
    function.close()


def test_a_hundred_registrations_leave_no_descriptors(agent, no_leaks):
    def cycle() -> None:
        registration = Registration.open(agent.socket, kind="gateway", name="g", domain=JOB)
        registration.ready()
        registration.close()
        until(lambda: agent.admin.endpoints() == [])

    cycle()
    before = agent.open_fds()
    for _ in range(100):
        cycle()
    assert agent.open_fds() == before
    agent.admin.close()


def test_garbage_on_the_socket_harms_nobody(agent, gateway):
    import socket

    for junk in (b"{}", b"[1]", b"\xff" * 100, b'{"op":"register","resume":"x"}', b"x" * 100_000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(5.0)
            s.connect(os.fspath(agent.socket))
            s.send(junk)
            answer = s.recv(4096)
            assert answer == b"" or json.loads(answer)["ok"] is False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(os.fspath(agent.socket))
        request = {"op": "register", "kind": "gateway", "name": "gateway-0", "domain": JOB}
        s.send(json.dumps(request | {"resume": gateway.endpoint}).encode())
        assert json.loads(s.recv(4096))["code"] == "fenced"
    assert not gateway.lost()


def test_a_second_agent_is_refused(agent):
    done = subprocess.run(
        [sys.executable, "-m", "ebpf.agent"],
        env=agent.env,
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"another agent serves this node" in done.stderr
    assert agent.admin.domains()


def test_metrics(agent, functions, gateway, unused_port):
    agent.stop(signal.SIGHUP)
    agent.start(LIFL_METRICS_PORT=str(unused_port))
    gateway.resume(timeout=5.0)
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics", timeout=5.0) as r:
        text = r.read().decode()
    labels = f'endpoint="{gateway.endpoint}",job="digits",kind="gateway",name="gateway-0"'
    assert f"lifl_endpoint_tx_messages_total{{{labels}}} 0.0" in text
    assert 'lifl_drops_total{reason="no_route"}' in text
    assert 'lifl_pool_slots{job="digits",state="free"} 16.0' in text
    assert 'lifl_pool_reserved_slots{job="digits"}' in text
    assert "lifl_agent_resumptions_total 1.0" in text


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])
