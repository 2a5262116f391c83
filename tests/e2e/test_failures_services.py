"""Gateway, coordinator and agent killed in the middle of a round: the same mean.

They die at named steps (one process, its master starts another) and whole (its supervisor
does). A client that got no answer posts again, as the SDK does; one that got its 202 does not,
so that an acknowledged update that is lost would leave the round open for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from .kit import Job, Platform, document, freeze, kill_tree, samples_of, update_of, wait_for
from .rounds import CLIENTS, Rounds, gone, leaves_of, top_of

STANDING = ["gateway-0", "coordinator", "agent-0", "controller"]


@pytest.fixture(scope="module")
def rounds(running: Platform) -> Rounds:
    return Rounds(running, "services")


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize("point", ["received", "counted", "visible", "announced"])
def test_the_gateway_dies_with_an_upload_unanswered(
    running: Platform, rounds: Rounds, point: str, which: str
) -> None:
    number = rounds.begin()
    job = rounds.job
    if which == "last":
        for client in range(CLIENTS - 1):
            job.deliver(client, number)
    armed = running.arm(point)
    unlucky = CLIENTS - 1 if which == "last" else 0
    job.deliver(unlucky, number)
    gone(armed)
    if which == "first":
        for client in range(1, CLIENTS):
            job.deliver(client, number)
    rounds.end(number)


def test_the_gateway_dies_whole_in_the_middle_of_an_upload(
    running: Platform, rounds: Rounds
) -> None:
    number = rounds.begin()
    job = rounds.job
    for client in (0, 1, 2):
        job.deliver(client, number)
    body = document(update_of(3, number))
    with job.raw() as sock:
        sock.sendall(job.head(3, number, len(body), samples="4") + body[: len(body) // 2])
        wait_for(lambda: running.usage(job.name).writing or None, "the upload to have begun")
        victim = running.kill("gateway-0")
        assert ended(sock)
    running.back(victim, "gateway-0")
    for client in (3, 4, 5):
        job.deliver(client, number)
    rounds.end(number)


def ended(sock: socket.socket) -> bool:
    """Whether the other side is gone; the kernel resets where it left bytes unread."""
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


@contextlib.contextmanager
def slow_upload(job: Job, client: int, number: int) -> Iterator[Callable[[], bytes]]:
    """Post all but an update's end; yields what sends that and returns the answer's start."""
    body = document(update_of(client, number))
    samples = str(samples_of(client))
    with job.raw() as sock:
        sock.sendall(job.head(client, number, len(body), samples=samples) + body[:-4])

        def end() -> bytes:
            with contextlib.suppress(OSError):
                sock.sendall(body[-4:])
                return sock.recv(12)
            return b""

        yield end


@pytest.mark.parametrize("point", ["counted", "visible"])
def test_the_gateway_dies_with_a_slow_upload_unanswered(
    running: Platform, rounds: Rounds, point: str
) -> None:
    """The update was claimed by itself, and then counted."""
    number = rounds.begin()
    job = rounds.job
    with slow_upload(job, 0, number) as end:
        wait_for(lambda: job.status()["uploading"] == 1 or None, "the claim")
        armed = running.arm(point)
        assert end() == b""
        gone(armed)
    for client in range(CLIENTS):
        job.deliver(client, number)
    rounds.end(number)


@pytest.mark.parametrize("point", ["claimed", "sealed"])
def test_the_coordinator_dies_over_a_slow_upload(
    running: Platform, rounds: Rounds, point: str
) -> None:
    number = rounds.begin()
    job = rounds.job
    armed = running.arm("claimed") if point == "claimed" else None
    with slow_upload(job, 0, number) as end:
        if armed is None:
            wait_for(lambda: job.status()["uploading"] == 1 or None, "the claim")
            armed = running.arm(point)
            assert end() == b"HTTP/1.1 202"  # it asks the next one, which knows of it
        gone(armed)
    for client in range(CLIENTS):
        job.deliver(client, number)
    rounds.end(number)


@pytest.mark.parametrize(
    "point", ["sealed", "computed", "checkpointed", "committed", "sealed-model"]
)
def test_the_coordinator_dies_at_a_step(running: Platform, rounds: Rounds, point: str) -> None:
    number = rounds.begin()
    armed = running.arm(point)
    rounds.job.deliver_all(number)
    gone(armed)
    rounds.end(number)


def test_the_coordinator_dies_when_it_opens_a_round(running: Platform, rounds: Rounds) -> None:
    number = rounds.begin()
    armed = running.arm("opened")
    rounds.job.deliver_all(number)
    rounds.end(number)
    gone(armed)
    number = rounds.begin()
    rounds.job.deliver_all(number)
    rounds.end(number)


@pytest.mark.parametrize("name", STANDING)
def test_killed_whole_between_updates(running: Platform, rounds: Rounds, name: str) -> None:
    """Three of six are in; the others come while it is away."""
    number = rounds.begin()
    for client in range(3):
        rounds.job.deliver(client, number)
    victim = running.kill(name)
    for client in range(3, CLIENTS):
        rounds.job.deliver(client, number)
    running.back(victim, name)
    rounds.end(number)


@pytest.mark.parametrize("name", STANDING)
def test_killed_whole_while_the_round_closes(running: Platform, rounds: Rounds, name: str) -> None:
    """The top sleeps, so that the round stays closed without a model until it wakes."""
    number = rounds.begin()
    job = rounds.job
    top = running.workers(job.name)[top_of(job)]
    freeze(top)
    job.deliver_all(number)
    wait_for(lambda: job.status()["phase"] == "closing" or None, "the round to close")
    victim = running.kill(name)
    running.back(victim, name)
    os.kill(top, signal.SIGCONT)
    rounds.end(number)


def test_the_agent_restarts_and_finds_the_same_functions(running: Platform, rounds: Rounds) -> None:
    """They come back with their pool and data sockets: nobody registers anew, nothing is void."""
    number = rounds.begin()
    job = rounds.job
    for client in range(3):
        job.deliver(client, number)
    before = endpoints(running)
    running.back(running.kill("agent-0"), "agent-0")
    wait_for(lambda: endpoints(running) == before or None, "all functions to come back")
    assert running.events().get("recoveries", 0) == 0
    for client in range(3, CLIENTS):
        job.deliver(client, number)
    rounds.end(number)


def endpoints(on: Platform) -> set[tuple[int, str, int, bool]]:
    with on.admin() as admin:
        return {(e["endpoint"], e["name"], e["pid"], e["ready"]) for e in admin.endpoints()}


@pytest.mark.ebpf
def test_the_kernel_sums_a_round_while_there_is_no_agent(running: Platform, rounds: Rounds) -> None:
    number = rounds.begin()
    with running.nothing_restarted():
        victim = running.kill("agent-0")
        rounds.job.deliver_all(number)
        rounds.job.check(number)
        assert rounds.job.status()["phase"] == "planning"
    running.back(victim, "agent-0")
    rounds.end(number)


def test_the_agent_and_a_leaf_that_holds_updates_die_together(
    running: Platform, rounds: Rounds
) -> None:
    """The next agent must find out that the leaf did not survive the last one."""
    number = rounds.begin()
    job = rounds.job
    job.deliver(0, number)
    wait_for(lambda: running.usage(job.name).taken or None, "the update to be in a sum")
    leaves = [running.aggregators(job.name)[name] for name in leaves_of(job)]
    victim = running.kill("agent-0")
    for leaf in leaves:
        kill_tree(leaf)
    running.back(victim, "agent-0")
    for client in range(1, CLIENTS):
        job.deliver(client, number)
    rounds.end(number)


def test_all_four_die_at_once(running: Platform, rounds: Rounds) -> None:
    """Only the aggregators are left, with the pool and what they hold."""
    number = rounds.begin()
    for client in range(3):
        rounds.job.deliver(client, number)
    victims = {name: running.process(name) for name in STANDING}
    together: list[Callable[[], None]] = [
        lambda name=name: kill_tree(victims[name]) for name in STANDING
    ]
    threads = [threading.Thread(target=kill) for kill in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, victim in victims.items():
        running.back(victim, name)
    for client in range(3, CLIENTS):
        rounds.job.deliver(client, number)
    rounds.end(number)
