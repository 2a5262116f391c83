from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from lifl.dataplane import channels, open_channel
from lifl.dataplane.channels import SEQUENCE, VERDICT, RelayChannel
from lifl.dataplane.relay import Relay
from lifl.errors import NotDelivered, Unavailable, WireError
from lifl.wire import Descriptor, DropReason, Kind, Opcode, RouteType, Share

WAIT = 5.0
D = Descriptor(Opcode.OBJECT, 1, 2, 3, 4)


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay()
    yield relay
    relay.close()


def plug(relay: Relay, endpoint: int) -> RelayChannel:
    channel = open_channel("socket", endpoint, relay.plug(endpoint, 1, Kind.AGGREGATOR))
    assert isinstance(channel, RelayChannel)
    return channel


def fill(relay: Relay, endpoint: int) -> int:
    count = 0
    try:
        while True:
            relay.inject(endpoint, D)
            count += 1
    except NotDelivered as e:
        assert e.reason == DropReason.DESTINATION_FULL
        return count


def test_a_full_queue_is_a_refusal_and_nobody_else_waits(relay: Relay) -> None:
    a, slow, c = plug(relay, 1), plug(relay, 2), plug(relay, 3)
    waiting = fill(relay, 2)
    relay.set_route(1, RouteType.ENDPOINT, 2)
    with pytest.raises(NotDelivered) as caught:
        a.send(D)
    assert caught.value.reason == DropReason.DESTINATION_FULL
    assert relay.drops()[DropReason.DESTINATION_FULL] == 1
    relay.set_group(7, [Share(2), Share(3)])
    relay.set_route(1, RouteType.GROUP, 7)
    for _ in range(4):
        a.send(D)
    assert len(c.recv(WAIT)) == 4
    found = 0
    while found < waiting:
        found += len(slow.recv(WAIT))
    assert slow.recv(0) == []
    for channel in (a, slow, c):
        channel.close()


def test_a_sender_that_never_takes_its_verdicts_holds_nobody_up(relay: Relay) -> None:
    a, b, c = plug(relay, 1), plug(relay, 2), plug(relay, 3)
    relay.set_route(2, RouteType.ENDPOINT, 3)
    sent = 0
    try:
        for _ in range(100_000):  # until its own line is full, or for good measure
            a._tx.send(SEQUENCE.pack(0) + D.pack())
            sent += 1
    except BlockingIOError:
        pass
    assert sent > 100
    b.send(D)
    assert c.recv(WAIT) == [D]
    for channel in (a, b, c):
        channel.close()


def test_an_empty_packet_ends_its_sender_alone(relay: Relay) -> None:
    a, b = plug(relay, 1), plug(relay, 2)
    relay.set_route(2, RouteType.ENDPOINT, 2)
    a._tx.send(b"")
    b.send(D)
    assert b.recv(WAIT) == [D]
    relay.unplug(1)
    relay.unplug(2)
    a.close()
    b.close()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RelayChannel, socket.socket]]:
    """A channel whose agent is this test, which answers or does not."""
    monkeypatch.setattr(channels, "VERDICT_SECONDS", 0.05)
    tx, agent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rx, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    agents = (os.dup(agent.fileno()), os.dup(far.fileno()))
    channel = RelayChannel(1, (tx.detach(), rx.detach(), *agents))
    yield channel, agent
    channel.close()
    agent.close()
    far.close()


def test_without_an_agent_a_send_fails_in_time(
    alone: tuple[RelayChannel, socket.socket],
) -> None:
    with pytest.raises(NotDelivered, match="no agent takes descriptors of 1"):
        alone[0].send(D)


def test_a_late_verdict_is_not_taken_for_anothers(
    alone: tuple[RelayChannel, socket.socket],
) -> None:
    channel, agent = alone
    with pytest.raises(NotDelivered):
        channel.send(D)
    first = int.from_bytes(agent.recv(64)[:4], "little")
    agent.send(VERDICT.pack(first, DropReason.NONE))

    def refuse() -> None:
        sequence = int.from_bytes(agent.recv(64)[:4], "little")
        agent.send(VERDICT.pack(sequence, DropReason.DOMAIN))

    thread = threading.Thread(target=refuse)
    thread.start()
    channels.VERDICT_SECONDS = WAIT
    with pytest.raises(NotDelivered, match="DOMAIN") as caught:
        channel.send(D)
    thread.join()
    assert caught.value.reason == DropReason.DOMAIN


def test_a_closed_relay_is_no_end_of_the_line() -> None:
    relay = Relay()
    a = plug(relay, 1)
    relay.close()
    assert a.recv(0) == []
    a.close()


def test_what_came_before_the_end_is_read_first(relay: Relay) -> None:
    a = plug(relay, 1)
    relay.inject(1, D)
    relay.unplug(1)
    assert a.recv(WAIT) == [D]
    with pytest.raises(Unavailable, match="unplugged"):
        a.recv(WAIT)
    a.close()


def test_what_is_no_descriptor_is_said_to_be_none(relay: Relay) -> None:
    fds = relay.plug(1, 1, Kind.AGGREGATOR)
    far = socket.socket(fileno=os.dup(fds[3]))
    a = RelayChannel(1, fds)
    far.send(b"0123456789abcdef")
    with pytest.raises(WireError):
        a.recv(WAIT)
    far.close()
    a.close()
