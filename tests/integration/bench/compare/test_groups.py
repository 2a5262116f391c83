"""Groups of real processes: what they use comes out, wherever they were forked and whoever ended.

Each test runs over control groups as this machine has them, over control groups with CPU by
version 2, and over the process tree that is left to a user who may have none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import harness
from bench.compare import cgroups, groups
from bench.compare.groups import ControlGroup, open_group
from bench.compare.memory import Sampler
from bench.compare.tree import ProcessTree

MB = 1 << 20
BURN = """
import sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
def done(*figures):
    print(*figures, flush=True)
    sys.stdin.readline()
"""
Group = ControlGroup | ProcessTree


@pytest.fixture(
    params=[
        pytest.param("control groups", marks=pytest.mark.ebpf),
        pytest.param("version 2", marks=pytest.mark.ebpf),
        "tree",
    ]
)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have ``open_group`` make this kind."""
    make = cgroups.make
    kind = str(request.param)
    if kind == "version 2":
        known = cgroups.parse(Path("/proc/self/mountinfo").read_text())
        second = [h for h in known if "cpuacct" not in h.controllers]
        monkeypatch.setattr(groups.cgroups, "make", lambda name: make(name, second))
    elif kind == "tree":

        def none(name: str) -> cgroups.Directories:
            raise cgroups.NoCgroups(13, "not asked for")

        monkeypatch.setattr(groups.cgroups, "make", none)
    return kind


@pytest.fixture
def group(kind: str, no_leaks: None) -> Iterator[Group]:
    with open_group("test", switches=False) as group:
        assert ("by process tree" in group.how) == (kind == "tree")
        assert kind != "version 2" or "CPU by version 2" in group.how
        yield group
    assert group.left == []
    assert not places()


def places() -> list[Path]:
    """Return the directories of this process's groups, in every hierarchy."""
    known = cgroups.parse(Path("/proc/self/mountinfo").read_text())
    name = f"{cgroups.PREFIX}-{os.getpid()}-*"
    return [p for h in known for p in h.mount.rglob(name)]


@contextlib.contextmanager
def child(group: Group, code: str, **options: object) -> Iterator[list[float]]:
    """Start a child in the group and give what it said; it ends with the block."""
    with group.adopt():
        process = subprocess.Popen(
            [sys.executable, "-c", BURN + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,  # type: ignore[call-overload]
        )
    with process:
        assert process.stdout is not None
        yield [float(f) for f in process.stdout.readline().split()]
        process.communicate("\n")
    assert process.returncode == 0


def test_cpu_of_a_child_is_what_it_says_itself(group: Group) -> None:
    with child(group, "burn(0.4)\ndone(time.process_time())") as (said,):
        used = group.usage()
    assert said >= 0.4
    assert said - 0.05 <= used.cpu <= said + 0.15
    assert used.switches is None


def test_user_and_system_are_told_apart(group: Group) -> None:
    code = """
import os
null = open("/dev/zero", "rb", 0)
end = time.process_time() + 0.4
while time.process_time() < end:
    null.read(1 << 20)
done(os.times().user, os.times().system)
"""
    with child(group, code) as (_, system):
        used = group.usage()
    assert system > 0.2
    assert used.system == pytest.approx(system, abs=0.12)


def test_processes_that_ended_are_included(group: Group) -> None:
    code = """
import os
if os.fork() == 0:
    burn(0.3)
    os._exit(0)
os.wait()
done(time.process_time())
"""
    with child(group, code) as (own,):
        used = group.usage()
    assert own < 0.25
    assert own + 0.25 <= used.cpu <= own + 0.5


@pytest.mark.ebpf
def test_under_another_user_in_another_session_whose_parent_has_ended(no_leaks: None) -> None:
    code = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setuid(65534)
        burn(0.3)
        done(os.getpid())
    os._exit(0)
os.wait()
"""
    with open_group("test", switches=False) as group:
        before = group.usage()
        with child(group, code) as (pid,):
            assert group.pids() == {int(pid)}
        assert 0.3 <= group.usage().since(before).cpu <= 0.6
    assert group.left == []


def test_memory_is_what_was_touched_and_shared_pages_count_once(group: Group) -> None:
    code = """
import mmap, os
done(0)
private = bytearray(b"x") * (48 << 20)
shared = mmap.mmap(-1, 32 << 20)
shared.write(b"y" * len(shared))
ready, tell = os.pipe()
if os.fork() == 0:
    sum(shared[i] for i in range(0, len(shared), 4096))
    os.write(tell, b"1")
    sys.stdin.readline()
    os._exit(0)
os.read(ready, 1)
done(0)
"""
    with child_in_steps(group, code) as step:
        before = group.memory()
        with Sampler(group) as sampler:
            step()
        grown = group.memory() - before
    assert 78 * MB <= grown <= 90 * MB
    assert sampler.peak - before >= 78 * MB
    assert sampler.samples[-1][1] - before <= 90 * MB


@contextlib.contextmanager
def child_in_steps(group: Group, code: str) -> Iterator[object]:
    with group.adopt():
        process = subprocess.Popen(
            [sys.executable, "-c", BURN + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline()

        def step() -> None:
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline()

        yield step
        process.communicate(b"\n\n\n")


def test_only_children_born_within_belong(group: Group) -> None:
    outside = [sys.executable, "-c", BURN + "burn(0.2)"]
    subprocess.run(outside, check=True)
    with child(group, "done(0)"):
        subprocess.run(outside, check=True)
        used, pids = group.usage(), group.pids()
    assert used.cpu < 0.15
    assert len(pids) == 1


def test_the_spawning_process_is_back_where_it_was_and_not_counted(group: Group) -> None:
    own = Path("/proc/thread-self/cgroup")
    before = own.read_text()
    with group.adopt():
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        with group.adopt():  # the same again changes nothing
            pass
    assert own.read_text() == before
    assert group.usage().cpu < 0.05
    assert group.pids() == set()


def test_a_thread_that_is_not_the_main_one_adopts_too(group: Group) -> None:
    found = []

    def spawn() -> None:
        with child(group, "burn(0.2)\ndone(0)"):
            found.append(group.usage().cpu)

    thread = threading.Thread(target=spawn)
    thread.start()
    thread.join()
    assert found[0] >= 0.2
    with child(group, "done(0)"):
        assert len(group.pids()) == 1


def test_whoever_is_left_is_killed_and_told_of(
    kind: str, no_leaks: None, caplog: pytest.LogCaptureFixture
) -> None:
    code = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
signal.pause()
"""
    with caplog.at_level(logging.WARNING), open_group("test", grace=0.1, switches=False) as group:
        with group.adopt():
            process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
    with process:
        assert process.wait(5) == -9
    (left,) = group.left
    assert left.startswith(f"{process.pid} python")
    assert f"killed what was left: {left}" in caplog.text
    assert not places()


@pytest.mark.ebpf
def test_every_process_of_a_local_platform_belongs(no_leaks: None) -> None:
    """Its supervisor is detached, its functions have sessions and users of their own."""
    with open_group("test", switches=False) as group:
        with contextlib.ExitStack() as ends:
            with group.adopt():
                platform = ends.enter_context(harness.platform())
            assert group.pids() == {platform.state["pid"], *platform.pids()}
            assert len(group.pids()) >= 5
        os.waitpid(platform.state["pid"], 0)  # ended, and waited for by nobody
        assert group.usage().cpu > 0.5
    assert group.left == []


@pytest.mark.ebpf
def test_spawning_for_two_groups_at_once_is_refused(no_leaks: None) -> None:
    with open_group("one", switches=False) as one, open_group("two", switches=False) as two:
        with one.adopt(), pytest.raises(RuntimeError, match="for group one"), two.adopt():
            pytest.fail("whose would its children be?")
        with two.adopt():
            pass


def test_a_tree_keeps_what_it_last_saw_of_a_root_that_ended(no_leaks: None) -> None:
    group = ProcessTree("test", "not asked for", period=1000)
    with child(group, "burn(0.3)\ndone(0)"):
        assert group.usage().cpu >= 0.28
    assert group.usage().cpu >= 0.28
    assert group.pids() == set()
    group.close(1.0)
