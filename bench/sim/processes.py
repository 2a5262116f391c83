"""How much processor time processes have used: by part of a platform, to the nanosecond.

Why: a clock says little on a machine that others use too, and its ticks of 10 ms are longer than
what is measured. It must not start or end any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench import harness

PARTS = {
    "functions.gateway": "gateway",
    "functions.coordinator": "coordinator",
    "functions.aggregator": "aggregators",
    "ebpf.agent": "agent",
}
Spent = dict[str, float]


def below() -> list[int]:
    """Return all processes under this one."""
    return [p.pid for p in psutil.Process().children(recursive=True)]


def spent(pids: Sequence[int]) -> Spent:
    """Return processor seconds so far by part."""
    found: Spent = dict.fromkeys((*PARTS.values(), "rest"), 0.0)
    for pid in pids:
        found[part(pid)] += cpu([pid])
    return found


def part(pid: int) -> str:
    """Return which part of a platform a process is."""
    said = command(pid)
    for module, name in PARTS.items():
        if module in said:
            return name
    return "rest"


def command(pid: int) -> str:
    """Return a process's command line, nothing if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def cpu(pids: Sequence[int]) -> float:
    """Return processor seconds of processes' threads so far, to the nanosecond."""
    return sum(harness._cpu_of(pid) for pid in pids)


def whole(pids: Sequence[int]) -> float:
    """Return processor seconds of processes so far, with threads that ended; in ticks of 10 ms."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(t.user + t.system for t in times))


def since(before: Spent, after: Spent) -> Spent:
    """Return what was used between."""
    return {name: max(1e-6, after[name] - before[name]) for name in after}
