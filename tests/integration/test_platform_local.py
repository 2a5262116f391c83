"""Aggregators as local processes: real processes, a stand-in program."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifl.platform import local
from lifl.platform.api import Aggregator
from lifl.platform.local import LocalPlatform
from lifl.platform.paths import Paths, read_json
from lifl.platform.processes import ProcessId

PRINT_AND_SLEEP = (
    "import json, os, time;"
    "print(json.dumps({'uid': os.getuid(), 'groups': os.getgroups(), 'env': dict(os.environ)}),"
    " flush=True); time.sleep(60)"
)
ONE = Aggregator("j-agg-0", "j", "node-0")


@pytest.fixture
def paths() -> Iterator[Paths]:
    with tempfile.TemporaryDirectory(prefix="lifl-", dir="/tmp") as home:
        found = Paths(Path(home))
        found.create(["node-0"])
        yield found


@pytest.fixture
def platform(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalPlatform]:
    interpreter = "/usr/bin/python3" if os.geteuid() == 0 else sys.executable
    monkeypatch.setattr(local, "ARGV", (interpreter, "-c", PRINT_AND_SLEEP))
    monkeypatch.setenv("LIFL_PLATFORM_SECRET", "00" * 32)
    found = LocalPlatform(paths, dataplane="socket", coordinator_url="http://127.0.0.1:1")
    yield found
    found.stop([a.name for a in found.running()])


def identity(paths: Paths, name: str) -> ProcessId:
    return ProcessId.from_json(read_json(paths.aggregators / f"{name}.json"))


def said(paths: Paths, platform: LocalPlatform) -> dict[str, object]:
    """What the aggregator printed: its log grows once it runs."""
    read_end, write_end = os.pipe()
    try:
        for _ in range(500):
            lines = paths.log(ONE.name).read_text().splitlines()
            if lines:
                found: dict[str, object] = json.loads(lines[-1])
                return found
            platform.wait(read_end, 0.02)
    finally:
        os.close(read_end)
        os.close(write_end)
    raise AssertionError("the aggregator said nothing")


def test_start_list_and_stop(platform: LocalPlatform, paths: Paths) -> None:
    platform.start(ONE, os.geteuid())
    first = identity(paths, ONE.name)
    platform.start(ONE, os.geteuid())
    assert identity(paths, ONE.name) == first
    assert platform.running() == [ONE]
    platform.stop([ONE.name, "unknown"])
    assert platform.running() == []
    assert not first.alive()


def test_another_controller_finds_them_again(platform: LocalPlatform, paths: Paths) -> None:
    platform.start(ONE, os.geteuid())
    other = LocalPlatform(paths, dataplane="socket", coordinator_url="http://127.0.0.1:1")
    assert other.running() == [ONE]
    other.stop([ONE.name])
    assert platform.running() == []


def test_a_death_ends_the_wait_and_the_file_goes(platform: LocalPlatform, paths: Paths) -> None:
    platform.start(ONE, os.geteuid())
    pid = identity(paths, ONE.name).pid
    read_end, write_end = os.pipe()
    os.kill(pid, signal.SIGKILL)
    platform.wait(read_end, 10.0)
    assert platform.running() == []
    assert list(paths.aggregators.iterdir()) == []
    os.write(write_end, b"x")
    platform.wait(read_end, 10.0)
    assert select.select([read_end], [], [], 0)[0]
    os.close(read_end)
    os.close(write_end)


def test_a_broken_file_is_taken_as_no_aggregator(platform: LocalPlatform, paths: Paths) -> None:
    (paths.aggregators / "x.json").write_text("{")
    assert platform.running() == []


def test_it_is_told_what_it_needs_and_no_secret(platform: LocalPlatform, paths: Paths) -> None:
    platform.start(ONE, os.geteuid())
    env = said(paths, platform)["env"]
    assert isinstance(env, dict)
    assert env["LIFL_NAME"] == ONE.name
    assert env["LIFL_DOMAIN"] == "j"
    assert env["LIFL_AGENT_SOCKET"] == str(paths.run / "node-0" / "agent.sock")
    assert "LIFL_PLATFORM_SECRET" not in env


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start processes of other users")
def test_as_root_it_runs_as_the_jobs_own_user(platform: LocalPlatform, paths: Paths) -> None:
    platform.start(ONE, 61007)
    got = said(paths, platform)
    assert got["uid"] == 61007
    assert got["groups"] == []


def test_without_an_interpreter_for_others_jobs_share_a_user(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(local, "program_paths", lambda: [closed])
    platform = LocalPlatform(paths, dataplane="socket", coordinator_url="http://127.0.0.1:1")
    assert platform.shared_user
    assert platform.user(61007) == os.geteuid()
