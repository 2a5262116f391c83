"""Groups of processes, whose use of CPU and memory the kernel counts together.

Why: every side of the comparison has processes that others start for it (brokers, sidecars,
aggregators from zero), some of which end before anybody looks. A control group has them all:
whoever is born in it stays in it, under whatever user and session, and what the ended used stays
counted. Where this user can have none, processes are counted by their tree instead, which is
coarser; ``how`` says which. It must not start processes, nor know what they do.

Not counted is what the kernel does for a group in threads of its own: ksoftirqd, when it takes
over packets under load, and writeback. Packets over the loopback device are mostly worked on
within the process that sends them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import resource
import threading
import time
from collections.abc import Iterator

from bench.compare import cgroups, tree
from bench.compare.api import Usage
from bench.compare.audit import Switches
from bench.compare.cgroups import Directories, NoCgroups
from lifl.errors import ConfigError

GRACE_SECONDS = 5.0
_ADOPTING = threading.RLock()
"""One at a time: where the whole process moves, nobody else may be spawning."""
_ADOPTERS: list[ControlGroup] = []
"""The group that the holder of the lock has moved into, if it has."""
_log = logging.getLogger(__name__)


class ControlGroup:
    """An ``api.Group`` by control groups. Made and removed by ``open_group``.

    ``unified`` is its directory of version 2 (None: there is none), ``left`` who was still there
    when it was to be removed, as ``pid name``.
    """

    def __init__(self, name: str, directories: Directories) -> None:
        self.name = name
        self.left: list[str] = []
        self.unified = directories.unified.path if directories.unified else None
        self._directories = directories
        self._own = Usage(0.0, 0.0)
        self._switches: Switches | None = None
        self._uncounted = "not asked for"

    @property
    def how(self) -> str:
        """How things are counted, for the report."""
        each = (self._directories.cpu, self._directories.memory)
        cpu, memory = (d.hierarchy.version for d in each)
        switches = "by eBPF" if self._switches else f"not counted ({self._uncounted})"
        return (
            f"by control groups: CPU by version {cpu}, memory by version {memory}, processes that "
            f"ended included, ksoftirqd not; switches {switches}"
        )

    def count_switches(self) -> None:
        """Count context switches from here on, or note in ``how`` why it is not possible."""
        if self.unified is None:
            self._uncounted = "no control groups of version 2 are mounted"
            return
        try:
            self._switches = Switches(self.unified)
        except ConfigError as e:
            self._uncounted = str(e)

    @contextlib.contextmanager
    def adopt(self) -> Iterator[None]:
        """Have the children that this thread starts within be born into the group.

        Start processes within and do nothing else: what this thread (where version 2 counts: this
        process) uses of CPU is taken off again at the end, but what it allocates is not, and
        version 2 has children of other threads born into the group as well.

        Raises
        ------
        RuntimeError
            within another group's: whose would the children be?
        """
        with _ADOPTING:
            if _ADOPTERS:  # this very thread, further up
                if _ADOPTERS[-1] is not self:
                    raise RuntimeError(f"this thread spawns for group {_ADOPTERS[-1].name} already")
                yield
                return
            own = _Own(thread=self._directories.cpu.hierarchy.version == 1)
            _ADOPTERS.append(self)
            try:
                with contextlib.ExitStack() as moves:
                    for directory in self._directories.all():
                        moves.enter_context(directory.entered())
                    yield
            finally:
                _ADOPTERS.pop()
                spent, so_far = own.spent(), self._own
                self._own = Usage(so_far.user + spent.user, so_far.system + spent.system)

    def usage(self) -> Usage:
        """Return what the group's processes have used so far, those that ended included.

        Within ``adopt`` it includes the adopting thread's own. The sum is exact; how much of it
        is user and how much system the kernel samples at its ticks.
        """
        cpu = self._directories.cpu
        if cpu.hierarchy.version == 1:
            total = cpu.read("cpuacct.usage")[""] / 1e9
            ticks = (cpu.read(f"cpuacct.usage_{k}")[""] for k in ("user", "sys"))
            system = total * _system(*ticks)
        else:
            stat = cpu.read("cpu.stat")
            total, system = stat["usage_usec"] / 1e6, stat["system_usec"] / 1e6
        total = max(0.0, total - self._own.cpu)
        system = min(total, max(0.0, system - self._own.system))
        count = self._switches.count() if self._switches else None
        return Usage(total - system, system, count)

    def memory(self) -> int:
        """Return bytes of anonymous memory and of shared memory and tmpfs, each page once.

        Shared pages count for the group whose process touched them first. Pages of files, which
        the kernel may drop, and buffers of sockets are left out. The kernel keeps it to within
        some hundred KB a CPU.
        """
        memory = self._directories.memory
        stat = memory.read("memory.stat")
        if memory.hierarchy.version == 1:
            return stat["total_rss"] + stat["total_shmem"]
        return stat["anon"] + stat["shmem"]

    def pids(self) -> set[int]:
        """Return the processes that are in it now."""
        found: set[int] = set()
        for directory in self._directories.all():
            with contextlib.suppress(FileNotFoundError):
                found |= directory.pids()
        return found - {0, os.getpid()}

    def close(self, grace: float) -> None:
        """Wait ``grace`` seconds for processes to end, kill and note the rest, remove the group."""
        if self._switches:
            self._switches.close()
        deadline = time.monotonic() + grace
        while (pids := self.pids()) and time.monotonic() < deadline:
            tree.await_end(pids, deadline)
        deadline = time.monotonic() + tree.KILLED_SECONDS
        while (pids := self.pids()) and time.monotonic() < deadline:  # the killed may have forked
            self.left += tree.kill(pids)
            tree.await_end(pids, deadline)
        for directory in self._directories.all():
            directory.remove()


def _system(user: float, system: float) -> float:
    """Return the share of system in both; of nothing, all is taken for user."""
    return system / (user + system) if system else 0.0


class _Own:
    """What this thread, or this process, spends from when it was made."""

    def __init__(self, *, thread: bool) -> None:
        self._clock = time.CLOCK_THREAD_CPUTIME_ID if thread else time.CLOCK_PROCESS_CPUTIME_ID
        self._whose = resource.RUSAGE_THREAD if thread else resource.RUSAGE_SELF
        self._before = self._now()

    def spent(self) -> Usage:
        """Return it: the sum by the exact clock, its parts by the sampled one."""
        before, now = self._before, self._now()
        total, user, system = (n - b for n, b in zip(now, before, strict=True))
        system = total * _system(user, system)
        return Usage(total - system, system)

    def _now(self) -> tuple[float, float, float]:
        sampled = resource.getrusage(self._whose)
        return time.clock_gettime(self._clock), sampled.ru_utime, sampled.ru_stime


@contextlib.contextmanager
def open_group(
    name: str, *, grace: float = GRACE_SECONDS, switches: bool = True
) -> Iterator[ControlGroup | tree.ProcessTree]:
    """Make a group; at the end processes left in it are killed after ``grace`` seconds, with a
    warning and noted in ``left``, and it is removed.

    ``name`` is lower case, digits and dashes. ``switches`` attaches a small program to every
    context switch of the machine, about a tenth of a microsecond each, alike for all sides.

    Raises
    ------
    ValueError
        if the name is none.
    """
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"{name!r} is no name of a group: lower case, digits and dashes, please")
    group: ControlGroup | tree.ProcessTree
    try:
        group = ControlGroup(name, cgroups.make(name))
    except NoCgroups as e:
        group = tree.ProcessTree(name, e.strerror or str(e))
    try:
        if switches and isinstance(group, ControlGroup):
            group.count_switches()
        yield group
    finally:
        group.close(grace)
        if group.left:
            _log.warning("group %s: killed what was left: %s", name, ", ".join(group.left))
