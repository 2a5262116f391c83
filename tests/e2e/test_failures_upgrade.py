"""The agent of a running platform is replaced in the middle of a round by another version.

Its kernel program has another text, so nothing can be taken over from the last one but the
functions themselves: they register anew, and no update is lost or counted twice.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .kit import Platform, platform, wait_for
from .rounds import CLIENTS, Rounds

pytestmark = pytest.mark.ebpf
CHECKOUT = Path(__file__).resolve().parents[2]
PARTS = ("lifl", "functions", "controller", "ebpf")


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """Return a copy of the program that can be changed while it runs."""
    copy = Path(tempfile.mkdtemp(prefix="lifl-tree-", dir="/tmp"))
    copy.chmod(0o755)
    for part in PARTS:
        shutil.copytree(
            CHECKOUT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.o")
        )
    yield copy
    shutil.rmtree(copy)


@pytest.fixture(scope="module")
def changing(tree: Path) -> Iterator[Platform]:
    """Run a platform of that copy."""
    python = tree / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tree} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with platform(dataplane="ebpf", python=python) as up:
        yield up


@pytest.fixture(scope="module")
def rounds(changing: Platform) -> Rounds:
    return Rounds(changing, "upgrade")


def endpoints(on: Platform) -> dict[str, int]:
    """Return the numbers of the functions that are ready, by name."""
    with on.admin() as admin:
        return {e["name"]: e["endpoint"] for e in admin.endpoints() if e["ready"]}


def anew(now: dict[str, int], before: dict[str, int]) -> bool:
    """Whether all are there, and nobody with a socket of the old program."""
    return now.keys() >= before.keys() and set(now.values()).isdisjoint(before.values())


def change(tree: Path, text: str) -> None:
    source = tree / "ebpf" / "bpf" / "lifl_route.c"
    source.write_text(f"{source.read_text()}\n/* {text} */\n")


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("before", [0, 3, CLIENTS])
def test_another_version_loses_no_update(
    changing: Platform, rounds: Rounds, tree: Path, before: int, how: signal.Signals
) -> None:
    number = rounds.begin()
    job = rounds.job
    for client in range(before):
        job.deliver(client, number)
    old = endpoints(changing)
    change(tree, f"after {before} updates, {how.name}")
    victim = changing.process("agent-0")
    os.kill(victim.pid, how)
    changing.back(victim, "agent-0")
    for client in range(before, CLIENTS):
        job.deliver(client, number)
    wait_for(lambda: anew(endpoints(changing), old), "all functions to register anew")
    rounds.end(number)  # nothing else may be left in the pool
