"""`lifl sim` hands its options to the simulator's own process, and that one's exit status back."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from lifl.cli import main as entry
from lifl.cli import sim


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["lifl", "sim", *arguments])
    try:
        entry.main()
    except SystemExit as e:
        return int(str(e.code or 0))
    return 0


def test_it_simulates_in_another_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--clients", "8", "--nodes", "1", "--systems", "lifl", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["clients"] == 8
    assert [s["system"] for s in told["systems"]] == ["lifl"]
    assert told["systems"][0]["rounds"][0]["updates"] == 8


def test_help_and_mistakes_are_the_simulators(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    assert "usage: lifl sim" in capfd.readouterr().out
    assert run(monkeypatch, "--nodes", "none") == 2
    assert "--nodes" in capfd.readouterr().err


def test_options_go_on_as_they_are_and_a_signal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def started(command: list[str], *, check: bool) -> subprocess.CompletedProcess[bytes]:
        assert not check
        seen.append(command)
        return subprocess.CompletedProcess(command, -9)

    monkeypatch.setattr(sim.subprocess, "run", started)
    assert run(monkeypatch, "--rounds", "3", "-h") == 128 + 9
    assert seen == [[sys.executable, "-m", "bench.sim", "--rounds", "3", "-h"]]


def test_without_the_simulator_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert run(monkeypatch) == 1
    assert "not installed" in capsys.readouterr().err
