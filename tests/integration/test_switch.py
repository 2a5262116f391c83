"""One behaviour, two switches: the kernel's and the userspace relay's.

Every test here runs over both, and over the kernel's in both ways to load it; what only one
of them can do is in test_switch_kernel.py and test_switch_relay.py.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf.agent.kernel_switch import KernelSwitch
from lifl.dataplane import Channel, Switch, open_channel
from lifl.dataplane.channels import RelayChannel, SkMsgChannel
from lifl.dataplane.relay import Relay
from lifl.errors import ConfigError, NotDelivered, RegistrationError, Unavailable
from lifl.wire import (
    MAX_MEMBERS,
    PAGE_BYTES,
    Descriptor,
    DropReason,
    Kind,
    Opcode,
    RouteType,
    Share,
)

WAIT = 5.0
JOB = 1
OTHER_JOB = 2


class Node:
    """A switch and the channels plugged into it."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self.channels: dict[int, Channel] = {}
        self.fds: dict[int, tuple[int, ...]] = {}

    def plug(self, endpoint: int, domain: int = JOB) -> Channel:
        fds = self.switch.plug(endpoint, domain, Kind.AGGREGATOR)
        self.fds[endpoint] = fds
        self.channels[endpoint] = open_channel(self.switch.name, endpoint, fds)
        return self.channels[endpoint]

    def kill(self, endpoint: int) -> None:
        """Close what the function holds, as its death does."""
        self.channels.pop(endpoint).close()

    def line(self, sender: int, receiver: int) -> tuple[Channel, Channel]:
        a, b = self.plug(sender), self.plug(receiver)
        self.switch.set_route(sender, RouteType.ENDPOINT, receiver)
        return a, b

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        self.switch.close()


@pytest.fixture(
    params=["socket", *(pytest.param(way, marks=pytest.mark.ebpf) for way in ("bcc", "object"))]
)
def node(
    request: pytest.FixtureRequest, switch_by: Callable[[str], Callable[[], KernelSwitch]]
) -> Iterator[Node]:
    node = Node(Relay() if request.param == "socket" else switch_by(request.param)())
    yield node
    node.close()


def descriptor(number: int, pages: int = 1) -> Descriptor:
    return Descriptor(Opcode.OBJECT, number & 0xFFFF, number, 9, pages)


def receive(channel: Channel, count: int) -> list[Descriptor]:
    found: list[Descriptor] = []
    while len(found) < count:
        some = channel.recv(WAIT)
        assert some, f"{len(found)} of {count} descriptors after {WAIT} s"
        found += some
    return found


def post(channel: Channel, raw: bytes) -> None:
    """Send bytes that no Descriptor makes."""
    assert isinstance(channel, SkMsgChannel | RelayChannel)
    channel._post(raw)


def test_a_descriptor_follows_its_senders_route(node: Node) -> None:
    a, b = node.line(1, 2)
    d = Descriptor(Opcode.OBJECT, 65535, 2**32 - 1, 7, 2**32 - 1)
    a.send(d)
    assert b.recv(WAIT) == [d]
    assert b.recv(0) == []
    assert a.recv(0) == []


def test_a_route_change_takes_effect_at_once(node: Node) -> None:
    a, b = node.line(1, 2)
    c = node.plug(3)
    a.send(descriptor(1))
    node.switch.set_route(1, RouteType.ENDPOINT, 3)
    a.send(descriptor(2))
    assert b.recv(WAIT) == [descriptor(1)]
    assert c.recv(WAIT) == [descriptor(2)]


def test_a_sender_may_be_routed_to_itself(node: Node) -> None:
    a = node.plug(1)
    node.switch.set_route(1, RouteType.ENDPOINT, 1)
    a.send(descriptor(1))
    assert a.recv(WAIT) == [descriptor(1)]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"x", DropReason.BAD_SIZE),
        (descriptor(1).pack()[:15], DropReason.BAD_SIZE),
        (descriptor(1).pack() + b"x", DropReason.BAD_SIZE),
        (descriptor(1).pack() * 2, DropReason.BAD_SIZE),
        (b"\x02" + descriptor(1).pack()[1:], DropReason.BAD_VERSION),
        (b"\x01\x00" + descriptor(1).pack()[2:], DropReason.BAD_OPCODE),
        (b"\x01\x04" + descriptor(1).pack()[2:], DropReason.BAD_OPCODE),
    ],
)
def test_bytes_that_are_no_descriptor_are_refused_and_counted(
    node: Node, raw: bytes, reason: DropReason
) -> None:
    a, b = node.line(1, 2)
    with pytest.raises(NotDelivered):
        post(a, raw)
    assert {r: n for r, n in node.switch.drops().items() if n} == {reason: 1}
    a.send(descriptor(2))
    assert b.recv(WAIT) == [descriptor(2)]


def test_every_refusal_has_its_reason(node: Node) -> None:
    a, b = node.line(1, 2)
    node.plug(3, OTHER_JOB)
    node.plug(4)
    node.kill(4)
    expected = []
    for type_, target, reason in [
        (RouteType.NONE, 0, DropReason.NO_ROUTE),
        (RouteType.ENDPOINT, 3, DropReason.DOMAIN),
        (RouteType.ENDPOINT, 4, DropReason.DESTINATION_GONE),
        (RouteType.ENDPOINT, 99, DropReason.DESTINATION_GONE),
        (RouteType.GROUP, 99, DropReason.NO_MEMBER),
    ]:
        node.switch.set_route(1, type_, target)
        with pytest.raises(NotDelivered):
            a.send(descriptor(1))
        expected.append(reason)
    counted = {r: n for r, n in node.switch.drops().items() if n}
    assert counted == {r: expected.count(r) for r in expected}
    assert node.switch.counters()[1].tx_messages == 0
    node.switch.set_route(1, RouteType.ENDPOINT, 2)
    a.send(descriptor(5))
    assert b.recv(WAIT) == [descriptor(5)]


def test_an_endpoint_starts_without_a_route(node: Node) -> None:
    a = node.plug(1)
    with pytest.raises(NotDelivered):
        a.send(descriptor(1))
    assert node.switch.drops()[DropReason.NO_ROUTE] == 1


def test_a_message_cannot_name_another_jobs_endpoint(node: Node) -> None:
    a, b = node.line(1, 2)
    foreign = node.plug(3, OTHER_JOB)
    node.switch.set_group(5, [Share(3)])
    for type_, target in [(RouteType.ENDPOINT, 3), (RouteType.GROUP, 5)]:
        node.switch.set_route(1, type_, target)
        for field in range(16):
            raw = bytearray(descriptor(1).pack())
            raw[field] = 3
            with pytest.raises(NotDelivered):
                post(a, bytes(raw))
    assert foreign.recv(0) == []
    assert b.recv(0) == []
    assert node.switch.drops()[DropReason.DOMAIN] >= 2 * 13


def test_a_group_is_served_in_turn(node: Node) -> None:
    a = node.plug(1)
    members = {e: node.plug(e) for e in (2, 3, 4)}
    node.switch.set_group(7, [Share(e) for e in members])
    node.switch.set_route(1, RouteType.GROUP, 7)
    for n in range(6):
        a.send(descriptor(n))
    assert [[d.slot for d in receive(c, 2)] for c in members.values()] == [[0, 3], [1, 4], [2, 5]]


def test_a_member_gets_its_run_before_the_next_gets_any(node: Node) -> None:
    a = node.plug(1)
    members = {e: node.plug(e) for e in (2, 3, 4)}
    node.switch.set_route(1, RouteType.GROUP, 7)
    runs = {2: 3, 3: 1, 4: 300}
    node.switch.set_group(7, [Share(e, run) for e, run in runs.items()])
    for n in range(2 * 304):
        a.send(descriptor(n))
        if n % 304 == 303:  # with their queues emptied
            got = [[d.slot - n + 303 for d in receive(c, runs[e])] for e, c in members.items()]
            assert got == [[0, 1, 2], [3], list(range(4, 304))]


def test_runs_may_change_under_a_sender(node: Node) -> None:
    a = node.plug(1)
    members = {e: node.plug(e) for e in (2, 3)}
    node.switch.set_route(1, RouteType.GROUP, 7)
    node.switch.set_group(7, [Share(2, 4), Share(3, 4)])
    for n in range(3):
        a.send(descriptor(n))
    node.switch.set_group(7, [Share(2, 2), Share(3, 2)])  # 2 has had more than that
    for n in range(3, 7):
        a.send(descriptor(n))
    assert [d.slot for d in receive(members[2], 5)] == [0, 1, 2, 5, 6]
    assert [d.slot for d in receive(members[3], 2)] == [3, 4]


def test_a_new_cycle_begins_with_the_first_member(node: Node) -> None:
    """However the last one ended, and for each sender by itself."""
    senders = [node.plug(e) for e in (1, 9)]
    members = {e: node.plug(e) for e in (2, 3)}
    for sender in senders:
        node.switch.set_route(sender.endpoint, RouteType.GROUP, 7)
    shares = [Share(2, 2), Share(3, 2)]
    node.switch.set_group(7, shares, 1)
    senders[0].send(descriptor(0))
    node.switch.set_group(7, shares, 1)  # the same one: it goes on
    senders[0].send(descriptor(1))
    senders[0].send(descriptor(2))
    node.switch.set_group(7, shares, 2)
    for n, sender in enumerate([*senders, senders[0]]):
        sender.send(descriptor(3 + n))
    assert [d.slot for d in receive(members[2], 5)] == [0, 1, 3, 4, 5]
    assert [d.slot for d in receive(members[3], 1)] == [2]
    senders[0].send(descriptor(6))
    assert [d.slot for d in receive(members[3], 1)] == [6]


def test_each_sender_has_a_turn_of_its_own(node: Node) -> None:
    senders = [node.plug(e) for e in (1, 2)]
    members = [node.plug(e) for e in (3, 4)]
    node.switch.set_group(7, [Share(3), Share(4)])
    for sender in senders:
        node.switch.set_route(sender.endpoint, RouteType.GROUP, 7)
        sender.send(descriptor(sender.endpoint))
    assert [d.slot for d in receive(members[0], 2)] == [1, 2]
    assert members[1].recv(0) == []


def test_a_dead_member_is_passed_over_and_its_load_is_spread(node: Node) -> None:
    a = node.plug(1)
    members = {e: node.plug(e) for e in (2, 3, 4)}
    node.switch.set_group(7, [Share(e) for e in members])
    node.switch.set_route(1, RouteType.GROUP, 7)
    node.kill(3)
    for n in range(8):
        a.send(descriptor(n))
    assert [len(receive(members[e], 4)) for e in (2, 4)] == [4, 4]
    node.switch.unplug(4)
    a.send(descriptor(8))
    assert members[2].recv(WAIT) == [descriptor(8)]
    node.kill(2)
    with pytest.raises(NotDelivered):
        a.send(descriptor(9))
    drops = node.switch.drops()
    assert (drops[DropReason.NO_MEMBER], drops[DropReason.DESTINATION_GONE]) == (1, 0)


def test_a_group_may_change_size_under_a_sender(node: Node) -> None:
    a = node.plug(1)
    members = {e: node.plug(e) for e in range(2, 2 + MAX_MEMBERS)}
    node.switch.set_route(1, RouteType.GROUP, 7)
    node.switch.set_group(7, [Share(e) for e in members])
    for n in range(MAX_MEMBERS):
        a.send(descriptor(n))
    assert all(len(receive(c, 1)) == 1 for c in members.values())
    node.switch.set_group(7, [Share(2)])
    a.send(descriptor(1))
    assert len(receive(members[2], 1)) == 1
    with pytest.raises(ConfigError, match="65 members"):
        node.switch.set_group(7, [Share(2)] * (MAX_MEMBERS + 1))
    for run in (0, 65536):
        with pytest.raises(ConfigError, match="runs are"):
            node.switch.set_group(7, [Share(2, run)])
    node.switch.del_group(7)
    node.switch.del_group(7)
    with pytest.raises(NotDelivered):
        a.send(descriptor(1))


def test_counters_tell_who_sent_what_and_when(node: Node) -> None:
    a, b = node.line(1, 2)
    before = time.monotonic_ns()
    for pages in (1, 0, 5, 2**32 - 1):
        a.send(descriptor(1, pages))
    after = time.monotonic_ns()
    receive(b, 4)
    counters = node.switch.counters()
    nbytes = (5 + 2**32) * PAGE_BYTES
    assert (counters[1].tx_messages, counters[1].tx_bytes) == (4, nbytes)
    assert (counters[2].rx_messages, counters[2].rx_bytes) == (4, nbytes)
    assert before <= counters[2].last_arrival_ns <= after
    assert (counters[1].rx_messages, counters[1].last_arrival_ns, counters[2].tx_messages) == (
        0,
        0,
        0,
    )
    assert not any(node.switch.drops().values())


def test_the_agent_injects_to_one_function(node: Node) -> None:
    a = node.plug(1)
    for opcode in Opcode:
        node.switch.inject(1, Descriptor(opcode, 1, 2, 3))
    assert [d.opcode for d in receive(a, 3)] == list(Opcode)
    assert node.switch.counters()[1].rx_messages == 0


def test_injecting_into_the_void_says_so(node: Node) -> None:
    node.plug(1)
    node.kill(1)
    for endpoint in (1, 99):
        with pytest.raises(NotDelivered) as caught:
            node.switch.inject(endpoint, descriptor(1))
        assert caught.value.reason == DropReason.DESTINATION_GONE


def test_injected_and_routed_descriptors_interleave_on_one_socket(node: Node) -> None:
    a, b = node.line(1, 2)
    choose = random.Random(1)
    routed = injected = 0
    found: list[Descriptor] = []
    for _ in range(2000):
        if choose.random() < 0.5:
            a.send(descriptor(routed, pages=1))
            routed += 1
        else:
            node.switch.inject(2, descriptor(injected, pages=2))
            injected += 1
        if choose.random() < 0.05:
            found += b.recv(0)
    found += receive(b, routed + injected - len(found))
    assert [d.generation for d in found if d.pages == 1] == list(range(routed))
    assert [d.generation for d in found if d.pages == 2] == list(range(injected))


def test_injecting_to_one_who_never_reads_ends_in_a_refusal(node: Node) -> None:
    b = node.plug(1)
    sent = 0
    with pytest.raises(NotDelivered) as caught:
        while True:
            node.switch.inject(1, descriptor(sent))
            sent += 1
    assert caught.value.reason == DropReason.DESTINATION_FULL
    assert [d.generation for d in receive(b, sent)] == list(range(sent))
    node.switch.inject(1, descriptor(0))
    assert b.recv(WAIT) == [descriptor(0)]


def test_a_backlog_is_kept_in_order_and_whole(node: Node) -> None:
    """The kernel's queue takes 100,000; the relay's takes some hundreds and then refuses."""
    a, b = node.line(1, 2)
    wanted = 100_000 if node.switch.name == "ebpf" else 50_000
    sent = 0
    try:
        while sent < wanted:
            a.send(descriptor(sent))
            sent += 1
    except NotDelivered as e:
        assert node.switch.name == "socket"
        assert e.reason == DropReason.DESTINATION_FULL
    assert node.switch.counters()[2].rx_messages == sent
    assert node.switch.drops()[DropReason.DESTINATION_FULL] == (sent < wanted)
    assert sent >= 200
    assert [d.generation for d in receive(b, sent)] == list(range(sent))
    a.send(descriptor(1))
    assert b.recv(WAIT) == [descriptor(1)]


def test_many_senders_at_once_lose_nothing(node: Node) -> None:
    receiver = node.plug(1)
    senders = [node.plug(e) for e in range(2, 6)]
    for sender in senders:
        node.switch.set_route(sender.endpoint, RouteType.ENDPOINT, 1)
    each = 300

    def send(channel: Channel) -> None:
        for n in range(each):
            while True:
                try:
                    channel.send(Descriptor(Opcode.OBJECT, channel.endpoint, n, 0, 1))
                    break
                except NotDelivered as e:
                    assert e.reason == DropReason.DESTINATION_FULL

    threads = [threading.Thread(target=send, args=(c,)) for c in senders]
    for thread in threads:
        thread.start()
    found = receive(receiver, each * len(senders))
    for thread in threads:
        thread.join()
    for sender in senders:
        assert [d.generation for d in found if d.slot == sender.endpoint] == list(range(each))
    assert node.switch.counters()[1].rx_messages == each * len(senders)


def test_threads_may_share_a_channel_for_sending(node: Node) -> None:
    a, b = node.line(1, 2)

    def send(slot: int) -> None:
        for n in range(100):
            a.send(Descriptor(Opcode.OBJECT, slot, n, 0))

    threads = [threading.Thread(target=send, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    found = receive(b, 400)
    for thread in threads:
        thread.join()
    for slot in range(4):
        assert [d.generation for d in found if d.slot == slot] == list(range(100))


def test_recv_waits_as_long_as_told_and_wakes_at_once(node: Node) -> None:
    a, b = node.line(1, 2)
    begin = time.monotonic()
    assert b.recv(0.05) == []
    assert time.monotonic() - begin >= 0.05
    thread = threading.Thread(target=a.send, args=(descriptor(1),))
    thread.start()
    assert b.recv() == [descriptor(1)]
    thread.join()


def test_one_recv_returns_no_more_than_sixty_four(node: Node) -> None:
    a, b = node.line(1, 2)
    for n in range(70):
        a.send(descriptor(n))
    assert [len(b.recv(WAIT)), len(b.recv(WAIT))] == [64, 6]


def test_fileno_is_readable_while_descriptors_wait(node: Node) -> None:
    a, b = node.line(1, 2)
    assert select.select([b.fileno()], [], [], 0)[0] == []
    a.send(descriptor(1))
    assert select.select([b.fileno()], [], [], WAIT)[0]
    b.recv(0)
    assert select.select([b.fileno()], [], [], 0)[0] == []


def test_unplugging_cuts_the_function_off_both_ways(node: Node) -> None:
    a, b = node.line(1, 2)
    node.switch.set_route(2, RouteType.ENDPOINT, 1)
    node.switch.unplug(2)
    with pytest.raises(NotDelivered):
        a.send(descriptor(1))
    with pytest.raises(NotDelivered):
        node.switch.inject(2, descriptor(1))
    for _ in range(2):
        with pytest.raises(NotDelivered):
            b.send(descriptor(1))
        with pytest.raises(Unavailable):
            b.recv(WAIT)
    assert a.recv(0) == []
    assert set(node.switch.counters()) == {1}
    node.switch.unplug(2)


def test_a_number_is_used_once_at_a_time(node: Node) -> None:
    node.plug(1)
    with pytest.raises(ConfigError, match="endpoint 1 is in use"):
        node.switch.plug(1, JOB, Kind.GATEWAY)
    node.switch.unplug(1)
    again = node.switch.plug(1, OTHER_JOB, Kind.GATEWAY)
    channel = open_channel(node.switch.name, 1, again)
    assert node.switch.counters()[1].tx_messages == 0
    with pytest.raises(NotDelivered):
        channel.send(descriptor(1))
    assert node.switch.drops()[DropReason.NO_ROUTE] == 1
    channel.close()


def test_a_route_for_nobody_is_no_trace(node: Node) -> None:
    node.switch.set_route(1, RouteType.ENDPOINT, 1)
    a = node.plug(1)
    with pytest.raises(NotDelivered):
        a.send(descriptor(1))


def test_what_is_not_an_endpoints_socket_is_not_adopted(node: Node) -> None:
    before = open_fds()
    with Path("/dev/null").open() as f:
        lone = socket.socket()
        pair = socket.socketpair()
        for brought in (
            [],
            [f.fileno()],
            [lone.fileno(), f.fileno()],
            [lone.fileno()] * 2,
            [lone.fileno()] * 4,
            [s.fileno() for s in pair] * 2,
        ):
            with pytest.raises(RegistrationError):
                node.switch.adopt(1, JOB, Kind.GATEWAY, [os.dup(fd) for fd in brought])
        for s in (lone, *pair):
            s.close()
    assert node.switch.counters() == {}
    assert open_fds() == before


def test_two_hundred_endpoints_come_and_go_without_a_trace(node: Node) -> None:
    node.plug(1)
    before = open_fds()
    for endpoint in range(2, 202):
        channel = node.plug(endpoint)
        node.switch.set_route(endpoint, RouteType.ENDPOINT, 1)
        channel.send(descriptor(endpoint))
        if endpoint % 2:
            node.kill(endpoint)
            node.switch.unplug(endpoint)
        else:
            node.switch.unplug(endpoint)
            node.kill(endpoint)
    assert open_fds() == before
    assert set(node.switch.counters()) == {1}
    assert len(receive(node.channels[1], 200)) == 200


def open_fds() -> dict[str, int]:
    """Count this process's descriptors by what they are."""
    kinds: dict[str, int] = {}
    for fd in Path("/proc/self/fd").iterdir():
        try:
            kind = str(fd.readlink()).split(":")[0]
        except FileNotFoundError:
            continue  # the listing's own
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def test_header_bytes_are_what_the_wire_module_says(node: Node) -> None:
    a, b = node.line(1, 2)
    post(a, struct.pack("<BBHIII", 1, 2, 513, 3, 4, 5))
    assert b.recv(WAIT) == [Descriptor(Opcode.FLUSH, 513, 3, 4, 5)]
