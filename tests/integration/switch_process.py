"""Run by the switch tests as a process of its own, to be killed.

``agent KIND PINS FD``: owns a switch (pinned unless PINS is empty), plugs 1 and 2,
routes them to each other, sends their descriptors over FD and waits.
``apart KIND PINS FD``: the same in a network namespace of its own, as in a pod.
``echo KIND ENDPOINT FD``: gets the descriptors of an endpoint over FD and answers
each descriptor with the next generation.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

from ebpf.agent.kernel_switch import KernelSwitch
from ebpf.agent.settings import AgentSettings
from ebpf.agent.sockmap import keep_loopback_up
from lifl.dataplane import Switch, open_channel
from lifl.dataplane.relay import Relay
from lifl.errors import NotDelivered
from lifl.wire import Kind, RouteType, Share


def agent(kind: str, pins: str, line: socket.socket) -> None:
    switch: Switch = Relay()
    if kind == "ebpf":
        compiled = AgentSettings.from_env().bpf_object
        switch = KernelSwitch.open(Path(pins) if pins else None, compiled)
    for endpoint in (1, 2):
        fds = switch.plug(endpoint, 1, Kind.AGGREGATOR)
        socket.send_fds(line, [b"%d" % endpoint], fds)
        for fd in fds:
            os.close(fd)
    switch.set_route(1, RouteType.ENDPOINT, 2)
    switch.set_group(7, [Share(1)])
    switch.set_route(2, RouteType.GROUP, 7)
    line.send(b"routed")
    signal.pause()


def apart(kind: str, pins: str, line: socket.socket) -> None:
    new_network = 0x40000000  # CLONE_NEWNET
    if ctypes.CDLL(None, use_errno=True).unshare(new_network) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace")
    with socket.socket() as any_:
        keep_loopback_up(any_)
    agent(kind, pins, line)


def echo(kind: str, endpoint: str, line: socket.socket) -> None:
    _, fds, _, _ = socket.recv_fds(line, 64, 8)
    channel = open_channel(kind, int(endpoint), fds)
    line.send(b"up")
    while True:
        for d in channel.recv():
            # A relay killed after it delivered could not say so any more.
            with contextlib.suppress(NotDelivered):
                channel.send(d._replace(generation=d.generation + 1))


if __name__ == "__main__":
    {"agent": agent, "apart": apart, "echo": echo}[sys.argv[1]](
        sys.argv[2], sys.argv[3], socket.socket(fileno=int(sys.argv[4]))
    )
