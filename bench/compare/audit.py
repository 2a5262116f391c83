"""What a group makes the kernel do, counted by eBPF: the overhead audit per hop and per update.

Why: copies, switches, passes through the protocol stack and system calls are what a broker and a
sidecar cost; they should be counted, not asserted. Counting itself costs (every system call and
every switch of the machine runs a program), so an audited round is a round of its own, and none
whose time is reported. The exception is ``Switches``, one program that may stay attached.

It must not know a system, nor judge a figure.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bench.compare.counts import LARGE_BYTES, Counts
from ebpf.agent import compiler
from ebpf.agent.sockmap import Map, possible_cpus
from lifl import bpf
from lifl.errors import ConfigError

_SOURCE = Path(__file__).with_name("bpf") / "audit.c"
_EVENTS = (Path("/sys/kernel/tracing/events"), Path("/sys/kernel/debug/tracing/events"))
_CGROUP_SKB, _SK_MSG = 8, 16  # BPF_PROG_TYPE_*
_LINK_CREATE, _ENABLE_STATS = 28, 32  # BPF_*
_LINK = struct.Struct("=IIII")
"""union bpf_attr: program, target, type of attachment, flags."""
_STATS = struct.Struct("=I")
_RUN_TIME = 0  # BPF_STATS_RUN_TIME
_INGRESS, _EGRESS = 0, 1  # BPF_CGROUP_INET_INGRESS, BPF_CGROUP_INET_EGRESS


class Counted(Protocol):
    """A group that has a control group of version 2, which eBPF programs ask for."""

    unified: Path | None

    def pids(self) -> set[int]:
        """Return the processes that are in it now."""


class _Programs:
    """The source, compiled with ``flags``, loaded and asking for one control group."""

    def __init__(self, cells: tuple[str, ...], unified: Path, *flags: str) -> None:
        self._cells = cells
        bcc = compiler.import_bcc()
        numbers = [f"-DC_{name.upper()}={i}" for i, name in enumerate(cells)]
        fixed = [
            f"-DCELLS={len(cells)}",
            f"-DSELF={os.getpid()}",
            f"-DLARGE={LARGE_BYTES}",
        ]
        try:
            with compiler.kernel_source(compiler.find_headers()):
                self.module = bcc.BPF(
                    src_file=os.fsencode(_SOURCE), cflags=[*fixed, *numbers, *flags]
                )
        except ConfigError:
            raise
        except Exception as e:
            raise ConfigError(
                f"bcc can make no programs of {_SOURCE.name} ({e}; its own words are on the "
                "standard error): root, or CAP_BPF and CAP_PERFMON, and tracefs are needed"
            ) from e
        fd = bcc.lib.bpf_table_fd(self.module.module, b"cells")
        self._map = Map(fd, 8, possible_cpus())
        self._links: list[int] = []
        self.directory = os.open(unified, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.module[b"group"][0] = self.directory
        except Exception as e:
            self.close()
            raise ConfigError(f"the kernel takes {unified} for no control group: {e}") from e

    def attach(self, function: str, where: int) -> None:
        """Attach a packet program to the group, for as long as this process has it."""
        try:
            program = self.module.load_func(function.encode(), _CGROUP_SKB).fd
            link = bpf.call(_LINK_CREATE, _LINK.pack(program, self.directory, where, 0))
        except Exception as e:
            raise ConfigError(f"the kernel attaches no program to a control group: {e}") from e
        self._links.append(link)

    def read(self) -> dict[str, int]:
        found = {}
        for i, name in enumerate(self._cells):
            values = self._map.lookup(i) or []
            found[name] = sum(int.from_bytes(v, sys.byteorder) for v in values)
        return found

    def close(self) -> None:
        for fd in (*self._links, self.directory):
            os.close(fd)
        self.module.cleanup()


class Switches:
    """Counts the context switches of a group, those of ended processes too, until closed.

    Raises
    ------
    ConfigError
        when bcc, the kernel's headers or the right to load programs are missing.
    """

    def __init__(self, unified: Path) -> None:
        cells = ("switches_voluntary", "switches_involuntary")
        self._programs = _Programs(cells, unified)

    def count(self) -> int:
        """Return voluntary and involuntary switches since this was made."""
        return sum(self._programs.read().values())

    def close(self) -> None:
        """Remove the program."""
        self._programs.close()


class Audit:
    """Counts while it is entered; compiling takes some seconds, before anything is counted.

    Only this process's own work for the group is left out, and only where it sees its real
    process id (not in a container).

    Raises
    ------
    ConfigError
        when bcc, the kernel's headers, the right to load programs, or the group's control group
        of version 2 are missing; on entry.
    """

    def __init__(self, group: Counted) -> None:
        self.missing: dict[str, str] = {}
        self._group = group
        self._programs: _Programs | None = None
        self._verdicts: _Verdicts | None = None

    def __enter__(self) -> Self:
        if self._group.unified is None:
            raise ConfigError("an audit needs a control group of version 2, and rights to make one")
        have, self.missing = _kernel()
        cells = tuple(f.name for f in fields(Counts))
        self._programs = _Programs(cells, self._group.unified, "-DAUDIT", *have)
        try:
            self._programs.attach("outgoing", _EGRESS)
            self._programs.attach("incoming", _INGRESS)
        except ConfigError:
            self._programs.close()
            raise
        try:
            self._verdicts = _Verdicts(self._group)
        except OSError as e:
            self.missing["redirects"] = f"the kernel keeps no statistics of programs: {e}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the programs."""
        if self._programs is not None:
            self._programs.close()
            self._programs = None
        if self._verdicts is not None:
            self._verdicts.close()
            self._verdicts = None

    def counts(self) -> Counts:
        """Return what was counted since it was entered."""
        if self._programs is None:
            raise RuntimeError("an audit counts only while it is entered")
        found = self._programs.read()
        if self._verdicts is not None:
            found["redirects"] = self._verdicts.count()
        return Counts(**{n: v for n, v in found.items() if n not in self.missing})


_OPTIONAL = {
    "HAVE_SOCK": (
        "sock/sock_send_length",
        "the kernel (before 6.3) does not tell lengths on sockets",
        (
            *("inet_sent", "inet_received", "unix_sent", "unix_received", "sends", "receives"),
            *("large_sent", "large_received", "spliced", "other_written", "other_read"),
        ),
    ),
    "HAVE_FAULTS": (
        "exceptions/page_fault_user",
        "this kind of machine does not tell page faults",
        ("page_faults",),
    ),
}


def _kernel() -> tuple[list[str], dict[str, str]]:
    """Return flags for what this kernel has, and of each count that it lacks why."""
    flags: list[str] = []
    missing: dict[str, str] = {}
    for flag, (event, why, names) in _OPTIONAL.items():
        if any((root / event).is_dir() for root in _EVENTS):
            flags.append(f"-D{flag}")
        else:
            missing |= dict.fromkeys(names, why)
    return flags, missing


class _Verdicts:
    """Counts what the group's sk_msg programs decided on, by the kernel's statistics of programs.

    A program is the group's when one of its processes holds a descriptor of it, as an agent does;
    of programs whose holders have ended it is what was last asked.
    """

    def __init__(self, group: Counted) -> None:
        self._group = group
        self._fd = bpf.call(_ENABLE_STATS, _STATS.pack(_RUN_TIME))
        self._seen: dict[int, int] = {}
        self._before = self._runs()

    def count(self) -> int:
        return sum(n - self._before.get(program, 0) for program, n in self._runs().items())

    def close(self) -> None:
        os.close(self._fd)

    def _runs(self) -> dict[int, int]:
        for pid in self._group.pids():
            for info in Path(f"/proc/{pid}/fdinfo").glob("*"):
                with contextlib.suppress(OSError, ValueError):  # ended, or closed
                    text = info.read_text()
                    rows = dict(line.split(":", 1) for line in text.splitlines())
                    if rows.get("prog_type", "").strip() == str(_SK_MSG):
                        self._seen[int(rows["prog_id"])] = int(rows["run_cnt"])
        return dict(self._seen)
