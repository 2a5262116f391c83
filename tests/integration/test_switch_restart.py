"""The agent dies and a new one takes over, on both switches; and what is left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf.agent import pins
from ebpf.agent.kernel_switch import KernelSwitch
from lifl import bpf
from lifl.dataplane import Channel, Switch, open_channel
from lifl.dataplane.relay import Relay
from lifl.errors import NotDelivered, RegistrationError
from lifl.wire import Descriptor, DropReason, Kind, Opcode, RouteType

ROOT = Path(__file__).resolve().parents[2]
WAIT = 5.0
SIOCSIFFLAGS, SIOCGSKNS = 0x8914, 0x894C


class Process:
    """One run of switch_process.py and the line to it."""

    def __init__(self, role: str, *args: str) -> None:
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(30)
        script = Path(__file__).with_name("switch_process.py")
        self.popen = subprocess.Popen(
            [sys.executable, script, role, *args, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        theirs.close()

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
        self.line.close()


class World:
    """An agent process with endpoints 1 (held here) and 2 (in a process of its own)."""

    def __init__(self, kind: str, pin_dir: Path | str, role: str = "agent") -> None:
        self.agent = Process(role, kind, str(pin_dir))
        self.fds = {}
        for _ in range(2):
            number, fds, _, _ = socket.recv_fds(self.agent.line, 64, 8)
            self.fds[int(number)] = fds
        assert self.agent.line.recv(64) == b"routed"
        self.channel: Channel = open_channel(kind, 1, self.fds[1])
        self.echo = Process("echo", kind, "2")
        socket.send_fds(self.echo.line, [b"fds"], self.fds[2])
        assert self.echo.line.recv(64) == b"up"
        self.next = 0

    def ping(self, times: int) -> None:
        """Send to 2 and get the answer, ``times`` times."""
        for _ in range(times):
            self.channel.send(Descriptor(Opcode.OBJECT, 1, self.next, 1, 1))
            assert [d.generation for d in self.channel.recv(WAIT)] == [self.next + 1]
            self.next += 2

    def bring(self, switch: Switch, endpoint: int) -> None:
        """Register again, as the function that holds the endpoint does."""
        switch.adopt(endpoint, 1, Kind.AGGREGATOR, [os.dup(fd) for fd in self.fds[endpoint]])

    def kill_echo(self) -> None:
        self.echo.kill()
        for fd in self.fds.pop(2, ()):
            os.close(fd)

    def close(self) -> None:
        self.agent.kill()
        self.kill_echo()
        self.channel.close()


@pytest.fixture
def pin_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "bpf"
    pins.remove(tmp_path / "bpf")


@pytest.fixture
def kernel_world(kernel_switch: Callable[..., KernelSwitch], pin_dir: Path) -> Iterator[World]:
    kernel_switch().close()
    world = World("ebpf", pin_dir)
    yield world
    world.close()


@pytest.fixture
def relay_world(pin_dir: Path) -> Iterator[World]:
    world = World("socket", pin_dir)
    yield world
    world.close()


@pytest.mark.ebpf
def test_the_kernel_routes_on_when_the_agent_is_killed(kernel_world: World) -> None:
    kernel_world.ping(10)
    kernel_world.agent.kill()
    kernel_world.ping(1000)


@pytest.mark.ebpf
def test_a_new_agent_adopts_what_is_pinned(kernel_world: World, pin_dir: Path) -> None:
    kernel_world.ping(10)
    kernel_world.agent.kill()
    kernel_world.ping(10)
    switch = KernelSwitch.open(pin_dir)
    assert switch.kernel.adopted
    kernel_world.ping(10)
    for endpoint in (1, 2):
        kernel_world.bring(switch, endpoint)
    kernel_world.ping(10)
    counters = switch.counters()
    assert (counters[1].tx_messages, counters[1].rx_messages) == (40, 40)
    switch.inject(1, Descriptor(Opcode.WAKE, 0, 0, 0))
    assert [d.opcode for d in kernel_world.channel.recv(WAIT)] == [Opcode.WAKE]
    kernel_world.kill_echo()
    with pytest.raises(NotDelivered):
        kernel_world.ping(1)
    switch.close()


@pytest.mark.ebpf
def test_a_new_agent_reaches_functions_although_the_old_ones_network_is_down(
    kernel_switch: Callable[..., KernelSwitch], pin_dir: Path
) -> None:
    """A pod's network namespace is set down with it; the sockets made in it stay."""
    kernel_switch().close()
    world = World("ebpf", pin_dir, "apart")
    world.agent.kill()
    _set_loopback_down(world.fds[1][1])
    switch = KernelSwitch.open(pin_dir)
    world.bring(switch, 1)
    for again in range(2):
        switch.inject(1, Descriptor(Opcode.WAKE, 0, again, 0))
        assert [d.generation for d in world.channel.recv(WAIT)] == [again]
        _set_loopback_down(world.fds[1][1])
    world.ping(3)
    switch.close()
    world.close()


def _set_loopback_down(fd: int) -> None:
    """Set lo down where a socket was made, which must not be here."""
    with socket.socket(fileno=os.dup(fd)) as made, socket.socket() as here:
        spaces = [fcntl.ioctl(s, SIOCGSKNS) for s in (made, here)]
        apart = len({os.fstat(space).st_ino for space in spaces}) == 2
        for space in spaces:
            os.close(space)
        assert apart
        fcntl.ioctl(made, SIOCSIFFLAGS, struct.pack("=16sH22x", b"lo", 0))


@pytest.mark.ebpf
def test_descriptors_waiting_survive_the_agent(kernel_world: World, pin_dir: Path) -> None:
    kernel_world.kill_echo()
    with pytest.raises(NotDelivered):
        kernel_world.ping(1)
    kernel_world.agent.kill()
    switch = KernelSwitch.open(pin_dir)
    kernel_world.bring(switch, 1)
    switch.set_route(1, RouteType.ENDPOINT, 1)
    for n in range(100):
        kernel_world.channel.send(Descriptor(Opcode.OBJECT, 1, n, 1))
    switch.close()
    switch = KernelSwitch.open(pin_dir)
    kernel_world.bring(switch, 1)
    found: list[Descriptor] = []
    while len(found) < 100:
        found += kernel_world.channel.recv(WAIT)
    assert [d.generation for d in found] == list(range(100))
    switch.close()


@pytest.mark.ebpf
def test_a_function_gets_back_its_own_endpoint_only(kernel_world: World, pin_dir: Path) -> None:
    kernel_world.agent.kill()
    switch = KernelSwitch.open(pin_dir)
    mine = kernel_world.fds[1]
    swapped = [mine[0], kernel_world.fds[2][1]]
    for endpoint, fds in [(2, mine), (3, mine), (1, mine[::-1]), (1, swapped), (1, mine[:1])]:
        with pytest.raises(RegistrationError):
            switch.adopt(endpoint, 1, Kind.GATEWAY, [os.dup(fd) for fd in fds])
    kernel_world.bring(switch, 1)
    with pytest.raises(RegistrationError):
        kernel_world.bring(switch, 1)
    kernel_world.ping(3)
    switch.close()


@pytest.mark.ebpf
def test_a_function_that_never_comes_back_can_be_cut_off(
    kernel_world: World, pin_dir: Path
) -> None:
    kernel_world.agent.kill()
    switch = KernelSwitch.open(pin_dir)
    for endpoint in switch.counters():
        switch.unplug(endpoint)
    assert switch.counters() == {}
    for _ in range(2):
        with pytest.raises(NotDelivered):
            kernel_world.ping(1)
    switch.close()


@pytest.mark.ebpf
def test_another_layouts_functions_go_on_among_themselves(
    kernel_world: World, pin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_world.ping(1)
    kernel_world.agent.kill()
    (pin_dir / "lifl-new-1").mkdir()
    monkeypatch.setattr("ebpf.agent.loader.layout", lambda: "0" * 16)
    switch = KernelSwitch.open(pin_dir)
    assert not switch.kernel.adopted
    assert [p.name for p in pin_dir.glob("lifl-*")] == ["lifl-" + "0" * 16]
    with pytest.raises(RegistrationError):
        kernel_world.bring(switch, 1)
    kernel_world.ping(10)
    assert switch.counters() == {}
    for fd in switch.plug(1, 1, Kind.AGGREGATOR):
        os.close(fd)
    switch.close()


@pytest.mark.ebpf
def test_functions_route_on_even_where_nothing_could_be_pinned(
    kernel_switch: Callable[..., KernelSwitch],
) -> None:
    kernel_switch().close()
    world = World("ebpf", "")
    world.agent.kill()
    world.ping(100)
    world.close()


@pytest.mark.ebpf
def test_nothing_of_the_kernels_is_left_after_the_end(
    kernel_switch: Callable[..., KernelSwitch], pin_dir: Path
) -> None:
    pinned = kernel_switch(pin_dir)
    assert pinned.kernel.pinned
    switches = [pinned, kernel_switch()]
    assert not switches[1].kernel.pinned
    ids = {bpf_id(m.fd, "map_id") for s in switches for m in s.kernel.maps.values()}
    programs = {bpf_id(s.kernel.program, "prog_id") for s in switches}
    assert (len(ids), len(programs)) == (14, 2)
    for switch in switches:
        switch.close()
    assert any(alive(bpf.MAP_GET_FD_BY_ID, i) for i in ids), "pins keep their maps"
    pins.remove(pin_dir)
    assert not pin_dir.is_mount()
    assert not pin_dir.exists()
    deadline = time.monotonic() + WAIT
    while any(alive(bpf.MAP_GET_FD_BY_ID, i) for i in ids) or any(
        alive(bpf.PROG_GET_FD_BY_ID, i) for i in programs
    ):
        assert time.monotonic() < deadline, "maps or programs outlive the switch"
        time.sleep(0.01)
    pins.remove(pin_dir)


def bpf_id(fd: int, name: str) -> int:
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value)
    raise AssertionError(f"descriptor {fd} has no {name}")


def alive(command: int, number: int) -> bool:
    try:
        os.close(bpf.call(command, number.to_bytes(4, sys.byteorder)))
    except FileNotFoundError:
        return False
    return True


@pytest.mark.ebpf
def test_a_socket_without_identity_gets_nothing_through(
    kernel_switch: Callable[..., KernelSwitch],
) -> None:
    from ebpf.agent.sockmap import tcp_pair

    switch = kernel_switch()
    near, far = tcp_pair()
    switch.kernel.maps["sockets"].update(9, near.fileno().to_bytes(8, "little"))
    for _ in range(2):
        with pytest.raises(PermissionError):
            near.send(Descriptor(Opcode.OBJECT, 1, 1, 1).pack())
    assert switch.drops()[DropReason.NO_IDENTITY] == 1
    near.close()
    far.close()
    switch.close()


def test_a_relay_adopts_endpoints_with_their_queues(relay_world: World) -> None:
    relay_world.ping(3)
    relay_world.agent.kill()
    with pytest.raises(NotDelivered):
        relay_world.ping(1)
    switch = Relay()
    for endpoint in (1, 2):
        relay_world.bring(switch, endpoint)
    with pytest.raises(NotDelivered) as caught:
        relay_world.ping(1)
    assert caught.value.reason == DropReason.NO_ROUTE
    switch.set_route(1, RouteType.ENDPOINT, 2)
    switch.set_route(2, RouteType.ENDPOINT, 1)
    relay_world.ping(3)
    with pytest.raises(RegistrationError, match="in use"):
        relay_world.bring(switch, 1)
    switch.close()
