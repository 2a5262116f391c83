"""A function's end of either data plane.

Why: a function sends and receives descriptors and must not care who routes them.
These classes only move 16-byte messages; they must not look at an opcode, keep
state about peers or send anything again: the slot table says what is to be done.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence

from lifl.dataplane.api import MAX_DRAIN
from lifl.errors import NotDelivered, Unavailable
from lifl.wire import DESCRIPTOR_BYTES, Descriptor, DropReason, unpack_many

SEQUENCE = struct.Struct("<I")
VERDICT = struct.Struct("<II")
"""Sequence number of the send it answers, DropReason (NONE: delivered)."""
VERDICT_SECONDS = 1.0
"""How long a sender waits for the agent before it calls a descriptor not delivered."""

_SEND_FLAGS = socket.MSG_NOSIGNAL


class SkMsgChannel:
    """The data socket that the kernel program routes, and its peer kept for the agent.

    ``fds``: data socket, peer end. The function never touches the peer; holding it
    keeps the connection up while no agent runs.
    """

    def __init__(self, endpoint: int, fds: Sequence[int]) -> None:
        self.endpoint = endpoint
        self._data, self._peer = take_sockets(fds)
        self._inbox = _Inbox(self._data)

    def send(self, d: Descriptor) -> None:
        """Send; the kernel program refuses by EPIPE and counts the reason."""
        self._post(d.pack())

    def _post(self, raw: bytes) -> None:
        try:
            self._data.send(raw, _SEND_FLAGS)
        except OSError as e:
            raise NotDelivered(f"the kernel did not deliver from {self.endpoint}: {e}") from e

    def recv(self, timeout: float | None = None) -> list[Descriptor]:
        """Return waiting descriptors; each read ends between two of them."""
        raw = self._inbox.read(MAX_DRAIN * DESCRIPTOR_BYTES, timeout)
        return unpack_many(raw) if raw else []

    def fileno(self) -> int:
        """Return the data socket."""
        return self._data.fileno()

    def close(self) -> None:
        """Close both ends."""
        self._data.close()
        self._peer.close()


class RelayChannel:
    """Two packet-socket pairs to the agent, which routes.

    ``fds``: sending end, receiving end, and the agent's ends of both, kept so that the
    queues outlive the agent. A send is a sequence number and the descriptor; the agent
    answers with that number and a reason, so a late answer is not taken for another's.
    """

    def __init__(self, endpoint: int, fds: Sequence[int]) -> None:
        self.endpoint = endpoint
        self._tx, self._rx, *self._agents = take_sockets(fds)
        self._inbox = _Inbox(self._rx)
        self._verdicts = _Inbox(self._tx)
        self._sending = threading.Lock()
        self._sequence = 0

    def send(self, d: Descriptor) -> None:
        """Send and wait for the agent's verdict, VERDICT_SECONDS at most."""
        self._post(d.pack())

    def _post(self, raw: bytes) -> None:
        with self._sending:
            self._sequence = (self._sequence + 1) & 0xFFFFFFFF
            try:
                self._tx.send(SEQUENCE.pack(self._sequence) + raw, _SEND_FLAGS)
                reason = self._await_verdict(time.monotonic() + VERDICT_SECONDS)
            except (OSError, Unavailable) as e:
                raise NotDelivered(f"no agent takes descriptors of {self.endpoint}: {e}") from e
        if reason:
            why = DropReason(reason)
            raise NotDelivered(f"not delivered from {self.endpoint}: {why.name}", reason=why)

    def _await_verdict(self, deadline: float) -> int:
        while True:
            raw = self._verdicts.read(VERDICT.size, max(0.0, deadline - time.monotonic()))
            if not raw:
                raise Unavailable(f"no verdict within {VERDICT_SECONDS} s")
            sequence, reason = VERDICT.unpack(raw)
            if sequence == self._sequence:
                return int(reason)

    def recv(self, timeout: float | None = None) -> list[Descriptor]:
        """Return waiting descriptors, one packet each."""
        found: list[Descriptor] = []
        raw = self._inbox.read(DESCRIPTOR_BYTES, timeout)
        while raw:
            found.append(Descriptor.unpack(raw))
            if len(found) == MAX_DRAIN:
                break
            raw = self._inbox.read_now(DESCRIPTOR_BYTES)
        return found

    def fileno(self) -> int:
        """Return the receiving end."""
        return self._rx.fileno()

    def close(self) -> None:
        """Close every end."""
        for s in (self._tx, self._rx, *self._agents):
            s.close()


class _Inbox:
    """Reads from one non-blocking socket with a time limit."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def read(self, size: int, timeout: float | None) -> bytes:
        """Return what waits, up to ``size`` bytes, or b"" after ``timeout`` seconds."""
        raw = self._receive(size)
        if raw is None:
            self._poll.poll(None if timeout is None else timeout * 1000)
            raw = self._receive(size)
        if raw == b"":
            raise Unavailable("the agent has unplugged this endpoint")
        return raw or b""

    def read_now(self, size: int) -> bytes:
        """Return what waits, or b"": the end of the line shows at the next read."""
        return self._receive(size) or b""

    def _receive(self, size: int) -> bytes | None:
        try:
            return self._sock.recv(size)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""


def take_sockets(fds: Sequence[int]) -> list[socket.socket]:
    """Own ``fds`` as sockets; closes them all and raises OSError when one is none."""
    found: list[socket.socket] = []
    try:
        for fd in fds:
            found.append(socket.socket(fileno=fd))  # noqa: PERF401 - what was had is closed below
    except OSError:
        for s in found:
            s.close()
        for fd in fds[len(found) :]:
            os.close(fd)
        raise
    return found
