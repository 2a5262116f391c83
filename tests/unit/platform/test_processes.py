from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from lifl.platform.processes import ProcessId, stop

SLEEPER = [sys.executable, "-c", "import time; print('on', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('on', flush=True); time.sleep(60)",
]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time;"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print(p.pid, flush=True); time.sleep(60)",
]


class Started:
    def __init__(self) -> None:
        self.all: list[subprocess.Popen[bytes]] = []

    def __call__(self, argv: list[str]) -> tuple[ProcessId, bytes]:
        p = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
        self.all.append(p)
        assert p.stdout is not None
        line = p.stdout.readline()
        identity = ProcessId.of(p.pid)
        assert identity is not None
        return identity, line


@pytest.fixture
def start() -> Iterator[Started]:
    started = Started()
    yield started
    for p in started.all:
        p.kill()
        p.wait()
        assert p.stdout is not None
        p.stdout.close()


def test_a_process_is_its_pid_and_its_start(start: Started) -> None:
    p, _ = start(SLEEPER)
    assert p.alive()
    assert not ProcessId(p.pid, p.started + 1).alive()
    assert ProcessId.from_json({"pid": p.pid, "started": p.started, "more": 1}) == p


def test_a_zombie_is_not_alive(start: Started) -> None:
    p, _ = start(SLEEPER)
    fd = p.pidfd()
    assert fd is not None
    os.kill(p.pid, signal.SIGKILL)
    assert select.select([fd], [], [], 5.0)[0]
    os.close(fd)
    assert not p.alive()
    assert ProcessId.of(p.pid) is None
    assert p.pidfd() is None


def test_another_process_with_the_same_pid_is_never_signalled(start: Started) -> None:
    p, _ = start(SLEEPER)
    earlier = ProcessId(p.pid, p.started - 1)
    earlier.signal(signal.SIGKILL)
    earlier.signal(signal.SIGKILL, group=True)
    stop([earlier], 1.0)
    assert p.alive()


def test_stop_waits_for_the_end(start: Started, no_leaks: None) -> None:
    p, _ = start(SLEEPER)
    stop([p], 5.0)
    assert not p.alive()
    start.all.pop().communicate()


def test_stop_kills_what_does_not_end(start: Started) -> None:
    p, _ = start(STUBBORN)
    before = time.monotonic()
    stop([p], 0.2)
    assert not p.alive()
    assert time.monotonic() - before < 3.0


def test_stop_kills_the_rest_of_the_group(start: Started) -> None:
    p, line = start(PARENT)
    child = ProcessId.of(int(line))
    assert child is not None
    fd = child.pidfd()
    assert fd is not None
    stop([p], 5.0)
    assert select.select([fd], [], [], 5.0)[0]
    os.close(fd)
    assert not child.alive()
