"""The hand-off of one object between two aggregator processes of a node.

Timed from just before the descriptor is sent to the object's first and last
element read in the other process, taking the object in the slot table included.
The same two processes, pinned the same way, do it in turn over the in-kernel
route and over a UNIX seqpacket pair; both wait as an aggregator does, which has
more than one descriptor to watch: poll, then receive. What a *result* costs (written, handed
over, read) is another figure; a descriptor alone being fast proves little.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import struct
import time
from collections.abc import Mapping, Sequence

from bench.figures import Figure, at_most
from bench.sizes import BYTES
from ebpf.agent.kernel_switch import KernelSwitch
from lifl.dataplane import open_channel
from lifl.dataplane.api import Channel
from lifl.store import Pool, PoolGeometry, Seal, SlotKind, SlotRef
from lifl.wire import DESCRIPTOR_BYTES, Descriptor, Kind, Opcode, RouteType, pages_of

SENDER, RECEIVER, DOMAIN = 1, 2, 1
PASSES = 9
WARM = 2
SENDS = 400
STAMP = struct.Struct("<Q")


class UnixPair:
    """One end of a UNIX seqpacket pair with a channel's send and recv."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, descriptor: Descriptor) -> None:
        """Send 16 bytes."""
        self._sock.send(descriptor.pack())

    def recv(self, timeout: float | None = None) -> list[Descriptor]:
        """Return one descriptor that is known to wait."""
        assert timeout == 0
        return [Descriptor.unpack(self._sock.recv(DESCRIPTOR_BYTES))]

    def fileno(self) -> int:
        """Return the socket."""
        return self._sock.fileno()


Way = Channel | UnixPair
Results = dict[tuple[int, str], list[list[float]]]


def run() -> list[Figure]:
    """Return the hand-off figures at 233 MB and the difference to 45 MB."""
    measured = _measure([BYTES["233mb"], BYTES["45mb"]])
    kernel, unix, small = (
        measured[0, "kernel"],
        measured[0, "unix"],
        measured[1, "kernel"],
    )
    micro = {
        "kernel_us": round(statistics.median(_medians(kernel)), 2),
        "unix_us": round(statistics.median(_medians(unix)), 2),
        "kernel_p99_us": round(statistics.median(_p99s(kernel)), 2),
        "unix_p99_us": round(statistics.median(_p99s(unix)), 2),
    }
    over = [a / b for a, b in zip(_medians(kernel), _medians(unix), strict=True)]
    over99 = [a / b for a, b in zip(_p99s(kernel), _p99s(unix), strict=True)]
    size = [a - b for a, b in zip(_medians(kernel), _medians(small), strict=True)]
    return [
        Figure("handoff_over_unix", "ratio", over, at_most(1.2), micro),
        Figure("handoff_p99_over_unix", "ratio", over99, at_most(1.2), micro),
        Figure("handoff_size_us", "us", size, at_most(2.0)),
    ]


def _medians(passes: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(p) for p in passes]


def _p99s(passes: Sequence[Sequence[float]]) -> list[float]:
    return [sorted(p)[int(len(p) * 0.99)] for p in passes]


def _measure(sizes: Sequence[int]) -> Results:
    """Return µs per send and pass, by size and transport, all in turn."""
    pools = [
        Pool.create("bench", PoolGeometry(1, -(-n // 4096) * 4096, 4096), prefault_slots=1)
        for n in sizes
    ]
    switch = KernelSwitch.open()
    try:
        sender = open_channel("ebpf", SENDER, switch.plug(SENDER, DOMAIN, Kind.AGGREGATOR))
        receiver = open_channel("ebpf", RECEIVER, switch.plug(RECEIVER, DOMAIN, Kind.AGGREGATOR))
        switch.set_route(SENDER, RouteType.ENDPOINT, RECEIVER)
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ack_read, ack_write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                _receive(pools, [receiver, UnixPair(right)], ack_write)
            finally:
                os._exit(0)
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cpus)})
        try:
            return _send(pools, {"kernel": sender, "unix": UnixPair(left)}, ack_read)
        finally:
            os.sched_setaffinity(0, cpus)
            ack_read.close()
            os.waitpid(pid, 0)
            for end in (sender, receiver, left, right, ack_write):
                end.close()
    finally:
        switch.close()
        for pool in pools:
            pool.close()


def _send(pools: Sequence[Pool], ways: Mapping[str, Way], ack: socket.socket) -> Results:
    results: Results = {(i, name): [] for i in range(len(pools)) for name in ways}
    for number in range(PASSES + WARM):
        for i, pool in enumerate(pools):
            for name, way in ways.items():
                samples = [_one(pool, way, ack) for _ in range(SENDS)]
                if number >= WARM:
                    results[i, name].append(samples)
    return results


def _one(pool: Pool, way: Way, ack: socket.socket) -> float:
    ref = pool.reserve(SlotKind.PARTIAL, SENDER, 1)
    nbytes = pool.geometry.float_bytes
    pool.seal(ref, SENDER, Seal(1, 1.0, 4096, nbytes))
    descriptor = Descriptor(Opcode.OBJECT, ref.slot, ref.generation, 1, pages_of(nbytes))
    start = time.monotonic_ns()
    way.send(descriptor)
    (end,) = STAMP.unpack(ack.recv(STAMP.size))
    return float(end - start) / 1e3


def _receive(pools: Sequence[Pool], ways: Sequence[Way], ack: socket.socket) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    turns = [(pool, way) for _ in range(PASSES + WARM) for pool in pools for way in ways]
    for pool, way in turns:
        poll = select.poll()
        poll.register(way.fileno(), select.POLLIN)
        for _ in range(SENDS):
            poll.poll()
            [descriptor] = way.recv(0)
            ref = SlotRef(descriptor.slot, descriptor.generation)
            pool.take(ref, RECEIVER)
            floats = pool.floats(ref.slot)
            if floats[0] + floats[-1] != 0:
                raise RuntimeError("the object is not what was sent")
            now = time.monotonic_ns()
            pool.release(ref, RECEIVER)
            ack.send(STAMP.pack(now))
