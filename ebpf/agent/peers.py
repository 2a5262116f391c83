"""Who is at the other end of a UNIX socket, and whether that process still lives.

Why: the end of a registration connection may mean that the function died or only
that the connection did; and a pid may name another process later. A pidfd tells:
it becomes readable when the process ends, and never speaks of another.

It must not decide what a death means.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_CRED = struct.Struct("iII")
_SO_PEERPIDFD = 77  # asm-generic/socket.h; the socket module does not name it
_START_FIELD = 19  # of /proc/PID/stat, counted after the command's closing bracket


@dataclass(slots=True)
class Process:
    """A process held by its pidfd, which this object owns; -1 if it is known to have ended.

    ``started`` is in clock ticks since the machine's start.
    """

    pid: int
    uid: int
    started: int
    pidfd: int

    @classmethod
    def of_peer(cls, sock: socket.socket) -> Self:
        """Return the process that connected ``sock``.

        Raises
        ------
        ProcessLookupError
            if it is gone, or cannot be seen from this PID namespace.
        """
        pid, uid, _ = _CRED.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CRED.size)
        )
        if pid <= 0:
            raise ProcessLookupError("the process is in a PID namespace the agent cannot see")
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
            pidfd = int.from_bytes(raw, "little")
        except OSError:  # an older kernel, or the process is gone
            pidfd = os.pidfd_open(pid)
        return cls(pid, uid, *cls._checked(pid, pidfd))

    @classmethod
    def find(cls, pid: int, uid: int, started: int) -> Self:
        """Return a process known from an earlier life of the agent.

        Raises
        ------
        ProcessLookupError
            if it is gone; the pid may be another process's by now.
        """
        found = cls(pid, uid, *cls._checked(pid, os.pidfd_open(pid)))
        if found.started != started:
            found.close()
            raise ProcessLookupError(f"process {pid} is another one now")
        return found

    @classmethod
    def gone(cls, pid: int, uid: int, started: int) -> Self:
        """Return a process that has ended, known from an earlier life of the agent."""
        return cls(pid, uid, started, -1)

    @staticmethod
    def _checked(pid: int, pidfd: int) -> tuple[int, int]:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
            started = int(stat.rpartition(b")")[2].split()[_START_FIELD])
        except OSError as e:
            os.close(pidfd)
            raise ProcessLookupError(f"process {pid} is gone") from e
        if _ended(pidfd):
            os.close(pidfd)
            raise ProcessLookupError(f"process {pid} is gone")
        return started, pidfd

    def cgroups(self) -> str:
        """Return this very process's ``/proc/PID/cgroup``.

        Raises
        ------
        ProcessLookupError
            if it is gone; what was read may be of another process with its pid.
        """
        try:
            text = Path(f"/proc/{self.pid}/cgroup").read_text()
        except OSError as e:
            raise ProcessLookupError(f"process {self.pid} is gone") from e
        if self.ended:
            raise ProcessLookupError(f"process {self.pid} is gone")
        return text

    @property
    def ended(self) -> bool:
        """Whether the process has exited."""
        return _ended(self.pidfd)

    def is_the_same(self, other: Process) -> bool:
        """Whether the two are one process."""
        return (self.pid, self.started, self.uid) == (other.pid, other.started, other.uid)

    def kill(self) -> None:
        """Send SIGKILL to this very process."""
        if not self.ended:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the pidfd."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _ended(pidfd: int) -> bool:
    if pidfd < 0:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
