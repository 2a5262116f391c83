"""Two hundred rounds, and jobs that come and go, leave nothing behind.

A leak of one thing a round would be 180 of them between the two looks; what a thread pool or a
pool of connections may still grow by is far below that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from lifl.platform import doctor

from .kit import Job, Platform, platform, wait_for

CLIENTS = 3
WARM = 20
ROUNDS = 200
SLACK = 8
"""Threads or descriptors that a process may have gained."""
MEMORY_SLACK = 6 << 20
"""Bytes of anonymous memory that all processes together may have gained."""


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    with platform(dataplane=doctor.default_dataplane()[0], LIFL_KEEP_SECONDS="0.5") as up:
        yield up


@dataclass
class Held:
    """What a platform holds at one moment, by process."""

    fds: dict[int, int] = field(default_factory=dict)
    threads: dict[int, int] = field(default_factory=dict)
    memory: int = 0
    memfds: int = 0
    bpf: set[str] = field(default_factory=set)
    """The programs and maps that its processes have open."""

    @classmethod
    def by(cls, on: Platform) -> Held:
        held = cls()
        for process in on.processes():
            pid = process.pid
            held.threads[pid] = process.num_threads()
            held.memory += _status(pid, "RssAnon") * 1024
            try:
                names = _links(pid)
                held.bpf |= _bpf(pid)
            except PermissionError:  # only root may look into processes that cannot be traced
                held.fds[pid] = _status(pid, "FDSize") // 20  # grows in powers of two
                continue
            held.fds[pid] = len(names)
            held.memfds += sum(name.startswith("/memfd:") for name in names)
        return held


def _links(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return found


def _status(pid: int, key: str) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(r.split()[1]) for r in rows if r.startswith(f"{key}:"))


def _bpf(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            rows = dict(r.split(":", 1) for r in entry.read_text().splitlines() if ":" in r)
        except FileNotFoundError:
            continue
        for kind, key in (("program", "prog_id"), ("map", "map_id")):
            if key in rows:
                found.add(f"{kind} {rows[key].strip()}")
    return found


def files(on: Platform) -> int:
    """Return how many files the platform keeps."""
    return sum(len(names) for _, _, names in os.walk(on.paths.home))


def play(job: Job, numbers: range, threads: ThreadPoolExecutor) -> None:
    for number in numbers:
        job.open_round(number - 1)
        list(threads.map(lambda c, n=number: job.deliver(c, n), range(CLIENTS)))
    job.check(numbers[-1])


def test_two_hundred_rounds(running: Platform) -> None:
    job = running.submit("long", clients=CLIENTS)
    with ThreadPoolExecutor(CLIENTS) as threads:
        play(job, range(1, WARM + 1), threads)
        before, kept = Held.by(running), files(running)
        play(job, range(WARM + 1, ROUNDS + 1), threads)
    after = Held.by(running)
    assert after.fds.keys() == before.fds.keys(), "other processes"
    gained = {
        p: (after.fds[p] - n, after.threads[p] - before.threads[p]) for p, n in before.fds.items()
    }
    guilty = {psutil.Process(p).cmdline()[-1]: g for p, g in gained.items() if max(g) > SLACK}
    assert not guilty, "descriptors and threads gained"
    assert after.memory - before.memory < MEMORY_SLACK
    assert after.memfds == before.memfds
    assert after.bpf == before.bpf
    assert files(running) - kept <= SLACK
    wait_for(lambda: job.current()["round"] == ROUNDS + 1 or None, "the next round")
    usage = running.usage(job.name)
    assert (usage.sealed, usage.taken, usage.writing, usage.retired) == (1, 0, 0, 0)


def test_jobs_that_are_over_are_gone(running: Platform) -> None:
    before: Held | None = None
    for i in range(6):
        job = running.submit(f"short-{i}", clients=CLIENTS, rounds=1)
        job.open_round()
        job.deliver_all(1)
        assert job.wait_over() == "done"
        wait_for(lambda j=job: gone(running, j), f"{job.name} to be gone")
        if before is None:
            before = Held.by(running)
    assert before is not None
    wait_for(lambda: not grown(before, Held.by(running)), "what is held to be as before")


def grown(before: Held, after: Held) -> list[str]:
    """Return what is held more than before; connections come and go, what is left behind stays."""
    if after.fds.keys() != before.fds.keys():
        return ["other processes"]
    found = [
        f"{psutil.Process(pid).cmdline()}: {after.fds[pid]} descriptors, not {fds}, and "
        f"{after.threads[pid]} threads, not {before.threads[pid]}"
        for pid, fds in before.fds.items()
        if after.fds[pid] - fds >= 4 or after.threads[pid] - before.threads[pid] >= 4
    ]
    found += ["memfds"] * (after.memfds != before.memfds)
    return found + ["BPF objects"] * (after.bpf != before.bpf)


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; the supervisor's record waits for this test's process to end."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def gone(on: Platform, job: Job) -> bool:
    """Whether neither aggregators nor a pool of a job are left."""
    with on.admin() as admin:
        return not on.aggregators(job.name) and job.name not in admin.pools()


@pytest.mark.ebpf
def test_a_platform_that_ended_leaves_no_bpf_object(bpf_ids: Callable[[], set[str]]) -> None:
    with platform(dataplane="ebpf") as on:
        job = on.submit("brief", clients=CLIENTS, rounds=1)
        job.open_round()
        job.deliver_all(1)
        job.check(1)
        mine = Held.by(on).bpf
        assert mine
        processes = on.processes()
    assert not [p for p in processes if alive(p)]
    wait_for(lambda: not mine & bpf_ids(), "its programs and maps to be freed")
