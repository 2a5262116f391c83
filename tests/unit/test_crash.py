"""Death at named points: exactly once, and only when asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifl import crash


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    yield found
    crash.arm({})


def test_a_file_kills_once_at_its_point(tmp_path: Path, killed: list[tuple[int, int]]) -> None:
    crash.arm({"LIFL_CRASH_DIR": str(tmp_path), "LIFL_NAME": "a-agg-1"})
    (tmp_path / "after-add").touch()
    crash.point("after-take")
    assert killed == []
    crash.point("after-add")
    crash.point("after-add")
    assert killed == [(os.getpid(), signal.SIGKILL)]
    assert list(tmp_path.iterdir()) == []


def test_a_file_may_name_the_instance(tmp_path: Path, killed: list[tuple[int, int]]) -> None:
    crash.arm({"LIFL_CRASH_DIR": str(tmp_path), "LIFL_NAME": "a-agg-1"})
    (tmp_path / "after-add@a-agg-2").touch()
    crash.point("after-add")
    assert killed == []
    (tmp_path / "after-add@a-agg-1").touch()
    crash.point("after-add")
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_unset_nothing_is_looked_for(
    tmp_path: Path, killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "after-add").touch()
    crash.arm({})
    crash.point("after-add")
    assert killed == []
    assert (tmp_path / "after-add").exists()
