"""Processor time by part: of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from bench.sim import processes


def test_time_grows_with_work_and_not_with_waiting() -> None:
    before = processes.cpu([os.getpid()])
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert 0.04 < processes.cpu([os.getpid()]) - before < 5
    assert processes.cpu([]) == processes.whole([]) == 0.0


def test_threads_that_ended_are_in_a_whole_process() -> None:
    before = processes.whole([os.getpid()])
    thread = threading.Thread(target=lambda: sum(i * i for i in range(1_000_000)))
    thread.start()
    thread.join()
    assert processes.whole([os.getpid()]) > before


def test_parts_are_known_by_their_commands() -> None:
    wait = "import sys; sys.stdin.read()"
    names = ("functions.gateway.app:app", "functions.aggregator.app:app", "something")
    running = [
        subprocess.Popen([sys.executable, "-c", wait, name], stdin=subprocess.PIPE)
        for name in names
    ]
    try:
        assert {p.pid for p in running} <= set(processes.below())
        assert [processes.part(p.pid) for p in running] == ["gateway", "aggregators", "rest"]
        spent = processes.spent([p.pid for p in running])
        assert set(spent) == {"gateway", "coordinator", "aggregators", "agent", "rest"}
        assert spent["coordinator"] == 0.0
    finally:
        for process in running:
            process.communicate(b"")
    assert processes.command(running[0].pid) == ""
    assert processes.since({"rest": 1.0}, {"rest": 3.5}) == {"rest": 2.5}
