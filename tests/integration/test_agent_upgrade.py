"""The agent is replaced in the middle of a round by one with another kernel program."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lifl import naming
from lifl.dataplane.registration import Registration
from lifl.errors import NotDelivered, RegistrationError
from lifl.store import SlotKind, SlotState

from .agent_kit import (
    GEOMETRY,
    JOB,
    NODE,
    PAIR,
    ROOT,
    Agent,
    Function,
    final,
    named,
    put,
    running,
    starting,
    take_one,
    until,
)

pytestmark = pytest.mark.ebpf


@pytest.fixture
def agent() -> Iterator[Agent]:
    with running("ebpf") as agent:
        yield agent


@pytest.fixture
def functions(agent: Agent) -> Iterator[Callable[..., Function]]:
    with starting(agent) as start:
        yield start


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """Return a tree with the agent of another version: its kernel program has another text."""
    tree = tmp_path / "newer"
    shutil.copytree(ROOT / "ebpf", tree / "ebpf", ignore=shutil.ignore_patterns("*.o", "*.pyc"))
    source = tree / "ebpf" / "bpf" / "lifl_route.c"
    source.write_text(source.read_text() + "\n/* the next version */\n")
    return tree


def layouts(agent: Agent) -> set[str]:
    return {p.name for p in (agent.socket.parent / "bpf").glob("lifl-*")}


def opened(agent: Agent, kind: str) -> Registration:
    made = Registration.open(agent.socket, kind=kind, name=kind, domain=JOB)
    made.ready()
    return made


def again(agent: Agent, old: Registration) -> Registration:
    """Do what gateway and coordinator do when the agent is back and does not know them."""
    with pytest.raises(RegistrationError):
        old.resume(timeout=10.0)
    old.close()
    return opened(agent, old.kind)


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGKILL])
def test_another_version_in_the_middle_of_a_round_loses_nothing(
    agent: Agent, functions: Callable[..., Function], newer: Path, how: signal.Signals
) -> None:
    gateway, coordinator = opened(agent, "gateway"), opened(agent, "coordinator")
    agent.admin.apply(PAIR)
    leaf, top = functions("agg-1"), functions("agg-top")
    put(gateway, 1)
    take_one(leaf)
    leaf.ask("seal")  # on its way to the top, in a queue of the old program
    put(gateway, 2)
    take_one(leaf)  # in a sum that is not sealed
    put(gateway, 3)  # in the leaf's queue
    before = layouts(agent)

    agent.stop(how)
    until(gateway.lost)
    put(gateway, 4)  # the old program routes on
    put(gateway, 5, send=False)
    agent.start(tree=newer)
    assert len(layouts(agent) - before) == 1
    assert not layouts(agent) & before, "nobody can take over what is of the old layout"

    fresh = again(agent, gateway)
    for function in (leaf, top):
        assert function.ask("resume")["error"] == "RegistrationError"
        assert "error" not in function.ask("reopen")
    result = again(agent, coordinator)
    until(lambda: all(named(agent, n).get("ready") for n in ("agg-1", "agg-top", "gateway")))
    put(fresh, 6)
    for _ in range(5):  # 2 to 6; 1 is in a sealed sum
        take_one(leaf)
    leaf.ask("seal")
    for _ in range(2):
        take_one(top)
    top.ask("seal")
    cover, total = final(result)
    assert (sorted(cover), total) == ([1, 2, 3, 4, 5, 6], 21.0)
    until(lambda: result.pool.usage().free == GEOMETRY.slots)
    for registration in (fresh, result):
        registration.close()


def test_functions_of_the_old_program_go_on_until_they_are_asked(
    agent: Agent, functions: Callable[..., Function], newer: Path
) -> None:
    gateway = opened(agent, "gateway")
    agent.admin.apply(PAIR)
    leaf = functions("agg-1")
    agent.stop(signal.SIGHUP)
    agent.start(tree=newer, LIFL_RESTART_GRACE="30")
    put(gateway, 1)
    take_one(leaf)
    assert leaf.ask("resume")["error"] == "RegistrationError"
    assert "error" not in leaf.ask("reopen")
    with pytest.raises(NotDelivered):  # the leaf has left the old program; it gets it all the same
        put(gateway, 2)
    fresh = again(agent, gateway)
    for _ in range(2):
        take_one(leaf)
    fresh.close()


def test_a_version_that_comes_and_goes_leaves_no_slot_behind(
    agent: Agent, functions: Callable[..., Function], newer: Path
) -> None:
    """Functions live through many versions of the agent."""
    gateway = opened(agent, "gateway")
    agent.admin.apply(PAIR)
    leaf = functions("agg-1")
    put(gateway, 1)
    for tree in (newer, ROOT, newer):
        take_one(leaf)
        begun = gateway.pool.reserve(SlotKind.UPDATE, gateway.endpoint, 1)
        assert gateway.pool.entry(begun.slot).state is SlotState.WRITING
        agent.stop(signal.SIGHUP)
        agent.start(tree=tree)
        gateway = again(agent, gateway)
        assert leaf.ask("resume")["error"] == "RegistrationError"
        assert "error" not in leaf.ask("reopen")
    take_one(leaf)
    until(lambda: agent.admin.pools()[JOB].free == GEOMETRY.slots - 2)  # the update and its sum
    gateway.close()


def test_told_to_end_while_it_starts_it_leaves_nothing(agent: Agent) -> None:
    """Of the agent before it, which was killed; nobody else is there to take it away."""
    pins = agent.socket.parent / "bpf"
    agent.stop(signal.SIGKILL)
    assert pins.is_mount()
    agent.begin()
    until(agent.hears, 10.0)
    assert not agent.answers()
    agent.stop()
    assert agent.process is not None
    assert agent.process.returncode == 0
    assert not pins.exists()


def test_what_a_killed_one_left_can_be_cleared_but_not_under_one_that_serves(agent: Agent) -> None:
    pins = naming.pin_dir(agent.socket.parent.parent, NODE)
    refused = agent.clear()
    assert refused.returncode == 1
    assert "another agent serves this node" in refused.stderr
    assert agent.answers()
    agent.stop(signal.SIGKILL)
    assert pins.is_mount()
    cleared = agent.clear()
    assert cleared.returncode == 0, cleared.stderr
    assert not pins.exists()
    agent.start()
    assert agent.admin.info()["epoch"] == 1
    assert not agent.admin.pools()
