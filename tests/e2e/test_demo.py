"""The main job as `make demo` runs it: real processes, real data, a report at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "examples" / "digits" / "demo.py"
CLIENTS = 10
PNG = b"\x89PNG\r\n\x1a\n"


def demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), "--results", str(tmp_path), *arguments],
        check=False,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataplane", [pytest.param("ebpf", marks=pytest.mark.ebpf), pytest.param("socket")]
)
def test_the_demo_learns_counts_every_update_and_leaves_nothing_running(
    tmp_path: Path, dataplane: str, no_leaks: None
) -> None:
    rounds = 10
    ended = demo(tmp_path, "--dataplane", dataplane, "--rounds", str(rounds))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "demo.json").read_text())
    assert found["accuracy"] >= 0.95
    assert (found["rounds"], found["versions"], found["clients"]) == (rounds, rounds, CLIENTS)
    assert found["updates_accepted"] == found["updates_aggregated"] == rounds * CLIENTS
    assert found["dataplane"] == dataplane
    assert len(found["round_seconds"]) == rounds
    assert (tmp_path / "accuracy.png").read_bytes().startswith(PNG)
    assert "accuracy on held-out data" in ended.stdout


def test_a_run_that_learned_too_little_or_lost_an_update_fails(tmp_path: Path) -> None:
    outcome = {
        "job": "digits",
        "state": "done",
        "accuracy": 0.94,
        "rounds": 1,
        "clients": CLIENTS,
        "updates_accepted": 10,
        "updates_aggregated": 9,
        "round_seconds": [1.0],
        "history": [{"round": 1, "accuracy": 0.94}],
        "dataplane": "socket",
        "nodes": 1,
        "seconds": 1.0,
    }
    tell = "import demo, json, pathlib, sys; a = sys.argv[1:]; " + (
        "sys.exit(demo.tell(json.loads(a[0]), pathlib.Path(a[1])))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", tell, json.dumps(outcome), str(tmp_path)],
        cwd=DEMO.parent,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1, ended.stderr
    assert "below 95%" in ended.stdout
    assert "not every accepted update was aggregated" in ended.stdout
    assert json.loads((tmp_path / "demo.json").read_text()) == outcome
