"""A group of processes by their tree, where this user can have no control group.

Why: the comparison should run for anybody. What is lost is said: CPU comes in the clock's ticks,
a process that nobody of the group waited for is known as it was last seen, switches are not
counted. It must not start processes, nor know what they do.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from bench.compare.api import Usage

LOOK_SECONDS = 0.25
KILLED_SECONDS = 10.0


class ProcessTree:
    """An ``api.Group`` by process tree; the attributes are those of ``groups.ControlGroup``."""

    unified: Path | None = None

    def __init__(self, name: str, why: str, *, period: float = LOOK_SECONDS) -> None:
        self.name = name
        self.left: list[str] = []
        self.how = (
            f"by process tree ({why}): CPU in ticks of {1000 // os.sysconf('SC_CLK_TCK')} ms; of "
            f"processes that nobody of the group waited for up to {period} s are lost, and those "
            "that leave their parent sooner are; memory by proportional shares of what is mapped; "
            "ksoftirqd is not included, switches are not counted"
        )
        self._seen: dict[psutil.Process, tuple[float, float]] = {}
        self._parents: dict[psutil.Process, int] = {}
        self._ended = [0.0, 0.0]
        self._births: tuple[int, set[int]] | None = None
        self._lock = threading.RLock()
        self._adopting = threading.RLock()
        self._stop = threading.Event()
        self._period = period
        self._watcher = threading.Thread(target=self._watch, name=f"group {name}", daemon=True)
        self._watcher.start()

    @contextlib.contextmanager
    def adopt(self) -> Iterator[None]:
        """Have the children that this thread starts within belong to the group."""
        with self._adopting:
            if self._births is not None:
                yield
                return
            tid = threading.get_native_id()
            self._births = (tid, _children(tid))
            try:
                yield
            finally:
                with self._lock:
                    self._look()
                    self._births = None

    def usage(self) -> Usage:
        """Return what the processes have used, and those that ended as they were last seen."""
        with self._lock:
            self._look()
            used = [*self._seen.values(), (self._ended[0], self._ended[1])]
            return Usage(sum(u for u, _ in used), sum(s for _, s in used))

    def memory(self) -> int:
        """Return bytes of anonymous and shared memory that is mapped, shared pages once."""
        with self._lock:
            self._look()
            return sum(_bytes(p.pid) for p in self._seen)

    def pids(self) -> set[int]:
        """Return the processes that live now."""
        with self._lock:
            self._look()
            return {p.pid for p in self._seen if _lives(p)}

    def close(self, grace: float) -> None:
        """Wait ``grace`` seconds for processes to end, kill and note the rest."""
        self._stop.set()
        self._watcher.join()
        self.pids()
        mine = [p for p in self._seen if _lives(p)]
        await_end([p.pid for p in mine], time.monotonic() + grace)
        alive = [p.pid for p in mine if _lives(p)]
        self.left += kill(alive)
        await_end(alive, time.monotonic() + KILLED_SECONDS)

    def _watch(self) -> None:
        while not self._stop.wait(self._period):
            with self._lock:
                self._look()

    def _look(self) -> None:
        """Find new members, read all of them, and settle the account of those that ended."""
        if self._births is not None:
            tid, before = self._births
            for pid in _children(tid) - before:
                self._add(pid)
        for process in list(self._seen):
            with contextlib.suppress(psutil.Error):
                for child in process.children(recursive=True):
                    self._add(child.pid)
        members = {p.pid for p in self._seen}
        for process in list(self._seen):
            try:
                if not process.is_running():
                    raise psutil.NoSuchProcess(process.pid)
                spent = process.cpu_times()
                self._parents[process] = process.ppid()
            except psutil.Error:
                last = self._seen.pop(process)
                # Whoever of the group waited for it has it in its own account.
                if self._parents.pop(process) not in members:
                    self._ended[0] += last[0]
                    self._ended[1] += last[1]
                continue
            self._seen[process] = (
                spent.user + spent.children_user,
                spent.system + spent.children_system,
            )

    def _add(self, pid: int) -> None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process not in self._seen:
                self._parents[process] = process.ppid()
                self._seen[process] = (0.0, 0.0)


def _children(tid: int) -> set[int]:
    with contextlib.suppress(OSError):
        return {int(p) for p in Path(f"/proc/self/task/{tid}/children").read_text().split()}
    return set()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _bytes(pid: int) -> int:
    """Return a process's share of what it maps; all of it where the kernel tells no shares."""
    shares = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss_Anon:", "Pss_Shmem:")
    if shares is None:
        shares = _kilobytes(Path(f"/proc/{pid}/status"), "RssAnon:", "RssShmem:")
    return 1024 * (shares or 0)


def _kilobytes(path: Path, *keys: str) -> int | None:
    found = None
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(keys):
                found = (found or 0) + int(line.split()[1])
    return found


def await_end(pids: Iterable[int], deadline: float) -> None:
    """Wait until all of them have ended, or ``deadline`` (monotonic seconds).

    Whoever started them is left to ask for how they ended.
    """
    with contextlib.ExitStack() as opened, selectors.DefaultSelector() as ends:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                opened.callback(os.close, fd)
                ends.register(fd, selectors.EVENT_READ)
        while ends.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in ends.select(left):
                ends.unregister(key.fd)


def kill(pids: Iterable[int]) -> list[str]:
    """Kill them; return ``pid name`` of each that was there."""
    killed = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            killed.append(f"{pid} {psutil.Process(pid).name()}")
            os.kill(pid, signal.SIGKILL)
    return killed
