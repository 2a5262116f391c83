"""Processes by identity: a pid and the moment it started.

Why: a pid is used again after its process ends; every signal of the platform
goes to a process whose start time is the one written down. It must not know
what the processes are for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid.

    ``started`` is field 22 of ``/proc/PID/stat``: clock ticks after boot.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of a living process, None if there is none (a zombie is none)."""
        stat = _stat(pid)
        return None if stat is None else cls(pid, stat)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Read the ``pid`` and ``started`` of a process file."""
        return cls(int(raw["pid"]), int(raw["started"]))

    def alive(self) -> bool:
        """Say whether this very process runs."""
        return _stat(self.pid) == self.started

    def pidfd(self) -> int | None:
        """Return a descriptor that is readable once the process ends, None if it has ended."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():
            return fd
        os.close(fd)
        return None

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal; nothing happens if the process has ended.

        With ``group`` it goes to the whole process group this process leads; that
        group may outlive its leader and keeps its number as long as it does.
        """
        if not group:
            fd = self.pidfd()
            if fd is not None:
                try:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(fd, number)
                finally:
                    os.close(fd)
            return
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def _stat(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def stop(processes: Iterable[ProcessId], grace: float) -> None:
    """End processes that lead their own groups: SIGTERM, then SIGKILL after ``grace`` seconds.

    Each is waited for; what is left of a group when its leader has gone is killed.
    """
    waiting = {p: fd for p in processes if (fd := p.pidfd()) is not None}
    try:
        for p in waiting:
            p.signal(signal.SIGTERM)
        _wait(waiting, grace)
        for p in waiting:
            p.signal(signal.SIGKILL, group=True)
        _wait(waiting, grace)
    finally:
        for fd in waiting.values():
            os.close(fd)


def _wait(waiting: dict[ProcessId, int], seconds: float) -> None:
    """Wait until all have ended; those that have leave ``waiting`` and their groups are killed."""
    poll = select.poll()
    owner = {fd: p for p, fd in waiting.items()}
    for fd in owner:
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + seconds
    while waiting and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            p = owner[fd]
            kill_group(p.pid)
            poll.unregister(fd)
            os.close(waiting.pop(p))


def kill_group(leader: int) -> None:
    """Kill what is left of a process group whose leader has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, so that their end is seen and reaped."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
