"""Finding control groups on all kinds of machines, and reading both versions' files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from bench.compare import cgroups, groups
from bench.compare.cgroups import Directories, Directory, Hierarchy, NoCgroups, parse
from bench.compare.groups import ControlGroup, open_group

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:3 master:1 - cgroup2 cgroup2 rw
"""
PURE = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CONTAINER = "30 23 0:26 /docker/4f /a\\040place ro - cgroup2 cgroup ro\n"


def test_a_machine_with_both_versions() -> None:
    cpu, memory, unified = parse(HYBRID)
    assert (cpu.version, cpu.controllers) == (1, {"cpuacct"})
    assert cpu.mount == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert (memory.version, memory.controllers) == (1, {"memory"})
    assert (unified.version, unified.mount) == (2, Path("/sys/fs/cgroup/unified"))


def test_a_machine_with_version_2_alone() -> None:
    (unified,) = parse(PURE)
    assert (unified.version, unified.controllers) == (2, frozenset())


def test_a_part_of_a_hierarchy_and_a_path_with_a_blank() -> None:
    (unified,) = parse(CONTAINER)
    assert unified.mount == Path("/a place")
    assert unified.root == PurePosixPath("/docker/4f")


OWN = "9:name=systemd:/\n4:memory:/box/a\n2:cpu,cpuacct:/\n0::/docker/4f/b\n"


def test_a_threads_place_is_below_the_mount_by_its_path_in_that_hierarchy() -> None:
    cpu, memory, _ = parse(HYBRID)
    assert cpu.place(OWN) == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert memory.place(OWN) == Path("/sys/fs/cgroup/memory/box/a")
    (unified,) = parse(CONTAINER)
    assert unified.place(OWN) == Path("/a place/b")


def test_a_place_that_is_not_mounted_is_none() -> None:
    (unified,) = parse(CONTAINER)
    for own in ("0::/elsewhere\n", "4:memory:/docker/4f\n"):
        with pytest.raises(NoCgroups, match="not below /a place"):
            unified.place(own)


def test_without_control_groups_it_says_so() -> None:
    with pytest.raises(NoCgroups, match="no control groups are mounted"):
        cgroups.make("x", [])
    memory = next(h for h in parse(HYBRID) if "memory" in h.controllers)
    with pytest.raises(NoCgroups, match="no control groups are mounted"):
        cgroups.make("x", [memory])


def group_of(cpu: Directory, memory: Directory) -> ControlGroup:
    return ControlGroup("x", Directories(cpu, memory, cpu if cpu.hierarchy.version == 2 else None))


def directory(path: Path, version: int) -> Directory:
    return Directory(Hierarchy(version, frozenset(), path, PurePosixPath("/")), path)


def test_version_1_counts_in_nanoseconds_and_sums_anonymous_and_shared(tmp_path: Path) -> None:
    (tmp_path / "cpuacct.usage").write_text("2000000000\n")
    (tmp_path / "cpuacct.usage_user").write_text("1200000000\n")  # seen at ticks: the split alone
    (tmp_path / "cpuacct.usage_sys").write_text("400000000\n")
    (tmp_path / "memory.stat").write_text(
        "cache 9\nrss 1\nshmem 1\ntotal_cache 900\ntotal_rss 4096\ntotal_shmem 8192\n"
    )
    one = directory(tmp_path, 1)
    group = group_of(one, one)
    assert (group.usage().user, group.usage().system) == (1.5, 0.5)
    assert group.usage().switches is None
    assert group.memory() == 12288
    assert group.unified is None
    group.count_switches()
    assert "not counted (no control groups of version 2" in group.how


def test_version_2_counts_in_microseconds_and_sums_anonymous_and_shared(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text(
        "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"
    )
    (tmp_path / "memory.stat").write_text("anon 4096\nfile 900000\nshmem 4096\n")
    two = directory(tmp_path, 2)
    group = group_of(two, two)
    assert (group.usage().user, group.usage().system) == (2.0, 0.5)
    assert group.memory() == 8192
    assert group.unified == tmp_path
    assert "CPU by version 2, memory by version 2" in group.how


def test_a_group_without_a_controller_is_not_used_where_memory_is_needed(tmp_path: Path) -> None:
    """Directories without the kernel behind them: nothing hands out a controller."""
    hierarchy = Hierarchy(2, frozenset(), tmp_path, PurePosixPath("/"))
    with pytest.raises(NoCgroups, match="counts memory"):
        cgroups._make(hierarchy, "lifl-compare-1-x", memory=True, own=tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def test_a_parent_that_counts_memory_is_climbed_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "slice" / "session"
    own.mkdir(parents=True)
    plain = Path.mkdir

    def mkdir(self: Path, *args: object) -> None:
        plain(self)
        if self.parent == tmp_path:  # as the kernel does below a group that hands memory out
            (self / "memory.stat").touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    hierarchy = Hierarchy(2, frozenset(), tmp_path, PurePosixPath("/"))
    made = cgroups._make(hierarchy, "lifl-compare-1-x", memory=True, own=own)
    assert made.path == tmp_path / "lifl-compare-1-x"
    assert list(own.iterdir()) == list(own.glob("cgroup.subtree_control"))
    assert made.handed is None


def test_empty_groups_of_ended_processes_are_swept_and_others_are_not(tmp_path: Path) -> None:
    ended, mine = tmp_path / "lifl-compare-4194999-x", tmp_path / "lifl-compare-1-x"
    for path in (ended, mine):
        path.mkdir()
    cgroups._sweep(tmp_path)
    assert not ended.exists()
    assert mine.exists()


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a b"])
def test_a_name_that_is_no_directory_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a group"), open_group(name):
        pytest.fail("it was opened")


def test_whoever_may_have_no_control_group_gets_a_process_tree_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    def none(name: str) -> Directories:
        raise NoCgroups(13, "cannot make a control group: Permission denied")

    monkeypatch.setattr(groups.cgroups, "make", none)
    with open_group("x") as group:
        assert "by process tree" in group.how
        assert "Permission denied" in group.how
        assert group.unified is None
        assert group.usage().switches is None
