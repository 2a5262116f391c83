"""The supervisor with real processes; the services are stand-ins, their deaths are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifl import naming
from lifl.platform import running
from lifl.platform.paths import Paths
from lifl.platform.processes import ProcessId
from lifl.platform.supervisor import log_tail

from .agent_kit import NODE, Agent

PROGRAM = """
import sys
from pathlib import Path
from lifl.platform import supervisor
from lifl.platform.paths import Paths
from lifl.platform.services import Service, UpConfig

SLEEP = "import time; time.sleep(60)"
ORPHAN = ("import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', "
          "'import time; time.sleep(60)'], start_new_session=True); time.sleep(60)")
FAIL = "print('no such thing'); raise SystemExit(7)"
PROGRAMS = {"sleep": SLEEP, "orphan": ORPHAN, "fail": FAIL}

def services(config, paths):
    return [Service(f"{name}-{i}", "controller", (sys.executable, "-c", PROGRAMS[name]), {})
            for i, name in enumerate(sys.argv[2:])]

supervisor.services = services
paths = Paths(Path(sys.argv[1]))
paths.create([])
say = lambda text: print(text, flush=True)
supervisor.Supervisor(UpConfig(1, "socket", (0,), 0, True), paths, report=say,
                      on_ready=lambda: say("READY")).run()
print("ENDED", flush=True)
"""


class Run:
    def __init__(self, home: Path, services: list[str]) -> None:
        self.paths = Paths(home)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home), *services],
            stdout=subprocess.PIPE,
            text=True,
        )

    def read_until(self, word: str) -> str:
        assert self.process.stdout is not None
        seen = ""
        for line in self.process.stdout:
            seen += line
            if word in line:
                return seen
        raise AssertionError(f"{word!r} never came; it said:\n{seen}")

    def state(self) -> dict[str, Any]:
        found = running.find(self.paths)
        assert found is not None
        return found

    def pid(self, name: str) -> int:
        return int(self.state()["processes"][name]["pid"])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def start(*services: str) -> Run:
        started.append(Run(tmp_path / "home", list(services)))
        return started[-1]

    yield start
    for r in started:
        running.down(r.paths)
        r.process.wait(10)
        assert r.process.stdout is not None
        r.process.stdout.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return ProcessId.of(pid) is None


def test_what_is_killed_comes_back_as_a_new_process(run: Callable[..., Run]) -> None:
    r = run("sleep", "sleep")
    r.read_until("READY")
    old, other = r.pid("sleep-0"), r.pid("sleep-1")
    os.kill(old, signal.SIGKILL)
    assert "sleep-0 ended (by SIGKILL)" in r.read_until("starting again")
    wait_for(lambda: r.state()["processes"]["sleep-0"]["pid"] not in {None, old})
    row = r.state()["processes"]["sleep-0"]
    assert (row["restarts"], row["last_exit"], row["state"]) == (1, -signal.SIGKILL, "running")
    assert r.pid("sleep-1") == other


def test_a_crash_loop_is_told_once_with_the_end_of_the_log(run: Callable[..., Run]) -> None:
    r = run("fail")
    said = r.read_until("keeps ending")
    assert said.count("starting again") == 4
    assert "no such thing" in r.read_until("no such thing")
    wait_for(lambda: r.state()["processes"]["fail-0"]["state"] == "crash-loop")


def test_sigterm_ends_everything_orphans_included(run: Callable[..., Run]) -> None:
    r = run("sleep", "orphan")
    r.read_until("READY")
    parent = r.pid("orphan-1")
    children = Path(f"/proc/{parent}/task/{parent}/children")
    wait_for(lambda: bool(children.read_text()))
    orphan = int(children.read_text())
    os.kill(parent, signal.SIGKILL)
    r.read_until("starting again")
    assert not gone(orphan)
    pids = [r.pid("sleep-0"), orphan]
    r.process.terminate()
    r.read_until("ENDED")
    assert all(gone(pid) for pid in pids)
    assert running.find(r.paths) is None
    assert not r.paths.platform_file.exists()


def test_down_ends_a_platform_from_outside(run: Callable[..., Run]) -> None:
    r = run("sleep")
    r.read_until("READY")
    pid = r.pid("sleep-0")
    with pytest.raises(running.AlreadyRunning):
        running.clear(r.paths)
    assert running.down(r.paths)
    assert gone(pid)
    assert not running.down(r.paths)


def test_what_a_killed_supervisor_left_is_found_and_ended(run: Callable[..., Run]) -> None:
    r = run("sleep")
    r.read_until("READY")
    pid = r.pid("sleep-0")
    r.process.kill()
    r.process.wait()
    assert running.find(r.paths) is None
    with pytest.raises(running.NotRunning):
        running.need(r.paths)
    assert not gone(pid)
    running.clear(r.paths)
    assert gone(pid)


@pytest.mark.ebpf
def test_what_a_killed_agent_left_in_the_kernel_goes_with_the_platform(
    run: Callable[..., Run],
) -> None:
    r = run("sleep")
    r.read_until("READY")
    agent = Agent(r.paths.run, "ebpf")
    agent.start()
    agent.stop(signal.SIGKILL)
    pins = naming.pin_dir(r.paths.run, NODE)
    assert pins.is_mount()
    r.process.terminate()
    r.read_until("ENDED")
    assert not pins.exists()


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    assert log_tail(path) == []
    path.write_text("".join(f"line {i}\n" for i in range(100_000)))
    assert log_tail(path, 2) == ["line 99998", "line 99999"]
