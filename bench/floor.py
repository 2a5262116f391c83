"""What a round costs at least: receive the bytes, average them in one pass, write and sync.

Why: a platform's round is judged over this floor, measured in the same run with
the same client processes. The receiver takes one connection after the other
into buffers that were touched before, and uses the platform's own sum kernel,
block by block, so that every input is read once.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.clients import Clients
from functions.aggregator.blas import BLOCK, best_kernel

PIECE = 1 << 20


class Cost(NamedTuple):
    """Seconds of wall time and of the receiver's CPU, and of wall time spent receiving."""

    wall: float
    cpu: float
    receiving: float


class Floor:
    """Warm buffers for ``clients`` documents of ``nbytes``, and a listening socket."""

    def __init__(self, clients: int, nbytes: int, directory: Path) -> None:
        self._nbytes = nbytes
        self._buffers = [np.ones(nbytes // 4, np.float32) for _ in range(clients)]
        self._mean = np.ones(nbytes // 4, np.float32)
        self._file = directory / "floor.bin"
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._kernel = best_kernel()

    def close(self) -> None:
        """Close the listener and remove the file."""
        self._listener.close()
        self._file.unlink(missing_ok=True)

    def round(self, clients: Clients) -> Cost:
        """Run one round and return its cost."""
        cpu, start = _cpu(), time.perf_counter()
        clients.start([("127.0.0.1", self.port, b"")] * len(self._buffers))
        for buffer in self._buffers:
            receive(self._listener, memoryview(buffer).cast("B"))
        received = time.perf_counter()
        self._average()
        self._sync()
        end = time.perf_counter()
        used = _cpu() - cpu
        clients.wait()
        return Cost(end - start, used, received - start)

    def _average(self) -> None:
        weight = 1.0 / len(self._buffers)
        for at in range(0, self._mean.size, BLOCK):
            out = self._mean[at : at + BLOCK]
            for i, buffer in enumerate(self._buffers):
                self._kernel.axpby(weight, buffer[at : at + BLOCK], float(i > 0), out)

    def _sync(self) -> None:
        fd = os.open(self._file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            view = memoryview(self._mean).cast("B")
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)


def receive(listener: socket.socket, into: memoryview) -> None:
    """Accept one connection and fill ``into`` from it."""
    conn, _ = listener.accept()
    with conn:
        while into:
            got = conn.recv_into(into, min(PIECE, len(into)))
            if not got:
                raise ConnectionError(f"the sender closed {len(into)} bytes early")
            into = into[got:]


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
