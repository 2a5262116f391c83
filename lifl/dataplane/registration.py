"""A function's registration with its node's agent: pool, data socket, role lane.

Why: a function is given its job's memory and its place in the data plane as
descriptors over a UNIX socket, so it can name neither another job's pool nor
another function's socket. The connection lives as long as the registration. Its
end means that the *agent* is gone: the function goes on with what it holds,
since the kernel routes without the agent, and calls :meth:`Registration.resume`.

One thread at a time may use a Registration; its pool may be used by several.
It must not touch objects or descriptors that cross the data plane.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lifl.dataplane import framing, open_channel
from lifl.dataplane.api import Channel
from lifl.dataplane.hardening import seal_process
from lifl.errors import LiflError, RegistrationError, Unavailable, WireError
from lifl.store import Pool, SlotRef

_REPLY_SECONDS = 5.0
_GOODBYE_SECONDS = 1.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.25


@dataclass(slots=True)
class Registration:
    """One (function instance, job) known to the agent.

    ``lane`` is the function's role row in the pool, and below 64 (gateways,
    coordinators) also the bit it pins objects with. ``dataplane`` is "ebpf" or
    "socket".
    """

    kind: str
    name: str
    job: str
    endpoint: int
    lane: int
    domain: int
    dataplane: str
    pool: Pool
    channel: Channel
    path: Path
    _sock: socket.socket
    _fds: tuple[int, ...]
    _ready: bool = field(default=False)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        kind: str,
        name: str,
        domain: str,
        token: str = "",
        timeout: float = 10.0,
    ) -> Self:
        """Register ``name`` in the domain of job ``domain``; waits up to ``timeout`` s.

        ``kind`` is "gateway", "aggregator" or "coordinator". ``token`` proves to the agent
        of a cluster's node that this pod may be that function (LIFL_REGISTRATION); other
        agents look at the user. The process is made not dumpable first
        (:mod:`lifl.dataplane.hardening`).

        Raises
        ------
        RegistrationError
            if the agent refuses: unknown job, wrong user or token, name in use.
        Unavailable
            if no agent answers in time.
        """
        seal_process()
        request = {"op": "register", "kind": kind, "name": name, "domain": domain}
        proof = {"resume": None, "token": token}
        sock, reply, fds = _ask(Path(path), {**request, **proof}, (), timeout)
        try:
            channel = open_channel(reply["dataplane"], reply["endpoint"], fds[1:])
            pool = Pool.attach(fds[0])
        except BaseException:
            sock.close()
            framing.close_all(fds)
            raise
        return cls(
            kind=kind,
            name=name,
            job=domain,
            endpoint=reply["endpoint"],
            lane=reply["lane"],
            domain=reply["domain"],
            dataplane=reply["dataplane"],
            pool=pool,
            channel=channel,
            path=Path(path),
            _sock=sock,
            _fds=tuple(fds[1:]),
        )

    def ready(self) -> None:
        """Say that descriptors may come; until then no group has this function."""
        self._ready = True
        self._tell({"op": "ready"})

    def dispatch(self, ref: SlotRef) -> None:
        """Ask the agent to send a sealed object on to where its kind belongs.

        For objects that the caller's own route does not fit, such as a partial
        sum that came from another node. If the agent is away it finds the object
        in the slot table when it is back.
        """
        self._tell({"op": "dispatch", "slot": ref.slot, "generation": ref.generation})

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # lost() says so; resume() makes up for it
            framing.send(self._sock, message)

    def lost(self) -> bool:
        """Tell whether the connection to the agent is gone; never blocks."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the connection is lost."""
        return self._sock.fileno()

    def resume(self, path: Path | str | None = None, *, timeout: float = 0.0) -> None:
        """Register again, as the same endpoint, with an agent that was restarted.

        Tries for ``timeout`` seconds, at least once: the caller has a data socket
        to serve meanwhile.

        Raises
        ------
        RegistrationError
            if the agent gave this function up: what it holds is void, and it has
            to close and register anew.
        Unavailable
            if no agent answers in time.
        """
        request = {
            "op": "register",
            "kind": self.kind,
            "name": self.name,
            "domain": self.job,
            "resume": self.endpoint,
        }
        where = Path(path) if path is not None else self.path
        sock, _, _ = _ask(where, request, (self.pool.fd, *self._fds), timeout)
        self._sock.close()
        self.path, self._sock = where, sock
        if self._ready:
            self.ready()

    def close(self) -> None:
        """Let go of the channel and the pool, then say goodbye: nothing is used any more.

        Also to an agent that gave this function up, which keeps what it was writing out of
        use for as long as it may still write.
        """
        self.channel.close()
        self.pool.close()
        if self.lost():
            self._say_goodbye_anew()
        else:
            self._tell({"op": "bye"})
        self._sock.close()

    def _say_goodbye_anew(self) -> None:
        with contextlib.suppress(OSError), _connected(self.path, _GOODBYE_SECONDS) as sock:
            framing.send(sock, {"op": "bye", "endpoint": self.endpoint})


def _ask(
    path: Path, request: dict[str, Any], fds: Sequence[int], timeout: float
) -> tuple[socket.socket, dict[str, Any], list[int]]:
    """Connect and register, again and again until an answer is final or time is up."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        last = deadline - time.monotonic()
        try:
            return _ask_once(path, request, fds, max(last, _REPLY_SECONDS))
        except _TryAgainError as e:
            if last <= pause:
                raise e.final from e
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, _LONGEST_PAUSE)


class _TryAgainError(Exception):
    """Not now; ``final`` is what to raise when there is no time left."""

    def __init__(self, final: LiflError) -> None:
        super().__init__(str(final))
        self.final = final


def _ask_once(
    path: Path, request: dict[str, Any], fds: Sequence[int], timeout: float
) -> tuple[socket.socket, dict[str, Any], list[int]]:
    try:
        sock = _connected(path, timeout)
    except OSError as e:
        raise _TryAgainError(Unavailable(f"no agent answers at {path}: {e}")) from e
    try:
        framing.send(sock, request, fds)
        message = framing.receive(sock)
        sock.setblocking(False)
    except (OSError, WireError) as e:
        sock.close()
        raise _TryAgainError(Unavailable(f"no agent answers at {path}: {e}")) from e
    except BaseException:
        sock.close()
        raise
    if message is not None and message.body.get("ok"):
        return sock, message.body, message.fds
    sock.close()
    if message is None:
        raise _TryAgainError(Unavailable(f"the agent at {path} closed the connection"))
    framing.close_all(message.fds)
    raise _refusal(message.body)


def _connected(path: Path, timeout: float) -> socket.socket:
    """Return a connection to the agent; raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(timeout)
        sock.connect(os.fspath(path))
    except BaseException:
        sock.close()
        raise
    return sock


def _refusal(body: dict[str, Any]) -> Exception:
    detail = str(body.get("detail", "the agent gave no reason"))
    error = RegistrationError(detail)
    return _TryAgainError(error) if body.get("again") else error
