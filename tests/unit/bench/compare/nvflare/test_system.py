from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from bench.compare.api import Group, Load
from bench.compare.nvflare import system
from bench.compare.nvflare.system import BIRTH, NVFlare, outside, write_job


def test_a_job_names_our_classes_and_where_to_call(tmp_path):
    write_job(tmp_path, 3)
    meta = json.loads((tmp_path / "job" / "meta.json").read_text())
    assert meta["min_clients"] == 3
    config = tmp_path / "job" / "app" / "config"
    (workflow,) = json.loads((config / "config_fed_server.json").read_text())["workflows"]
    assert workflow["path"] == "told.ToldFedAvg"
    custom = tmp_path / "job" / "app" / "custom"
    assert "class ToldFedAvg" in (custom / "told.py").read_text()
    assert "class ReadyExecutor" in (custom / "ready_executor.py").read_text()
    assert workflow["args"] == {
        "told": str(tmp_path / "told"),
        "document": str(tmp_path / "document"),
        "clients": 3,
    }
    (executor,) = json.loads((config / "config_fed_client.json").read_text())["executors"]
    assert executor["executor"]["path"] == "ready_executor.ReadyExecutor"


def test_outside_is_where_this_thread_is():
    for place in outside():
        assert str(os.getpid()) in (place / "cgroup.procs").read_text().split()


def run(tmp_path, *arguments: str) -> str:
    settings = {"PYTHONPATH": str(BIRTH), "LIFL_COMPARE_OUTSIDE": str(tmp_path)}
    subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | settings,
        capture_output=True,
        check=False,
    )
    procs = tmp_path / "cgroup.procs"
    return procs.read_text() if procs.exists() else ""


def test_only_a_clients_process_leaves_at_birth(tmp_path):
    assert run(tmp_path, "-c", "pass", "nvflare") == ""
    worker = "nvflare.private.fed.app.simulator.simulator_worker"
    assert run(tmp_path, "-m", worker).isdigit()  # though there is no such module


@pytest.mark.parametrize(("program", "tries"), [("sleep", 2), ("true", 1)])
def test_a_simulator_that_is_stuck_is_started_again(monkeypatch, tmp_path, program, tries):
    started = []

    def simulator(_self: NVFlare, home: Path) -> subprocess.Popen[bytes]:
        (home / "log").write_text("Start FedAvg.")
        process = subprocess.Popen([program, "60"])
        started.append((home, process))
        return process

    monkeypatch.setattr(system, "UP_SECONDS", 0.1)
    monkeypatch.setattr(NVFlare, "_simulator", simulator)
    monkeypatch.setattr(system.tempfile, "tempdir", str(tmp_path))
    played = NVFlare(Load("test", "45mb", 2, (0.0, 0.0)), cast(Group, None), bytes(8))
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(RuntimeError, match=r"did not start: Start FedAvg\."),
    ):
        played._start(stack)
    assert len(started) == tries
    for home, process in started:
        assert process.poll() is not None
        assert not home.exists()
