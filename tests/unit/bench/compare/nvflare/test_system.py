from __future__ import annotations

import json
import os
import subprocess
import sys

from bench.compare.nvflare.system import BIRTH, outside, write_job


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
