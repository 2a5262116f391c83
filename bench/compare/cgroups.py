"""Where this machine's control groups are, and how one of ours is made, entered and removed.

Why: machines have version 1, version 2, or both side by side, mounted anywhere; whoever counts
a group's use should not have to care. Nothing is assumed: the kernel is asked for its mounts and
for this thread's place in them. It must not know what is counted in a group, nor who is in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PREFIX = "lifl-compare"
_NAME = re.compile(rf"{PREFIX}-(\d+)-")
_MOUNTS = Path("/proc/self/mountinfo")
_PLACE = Path("/proc/thread-self/cgroup")
_REMOVAL_SECONDS = 2.0


class NoCgroups(OSError):
    """Raised where a machine or a user's rights have no control groups for us; says why."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy: its version, its version 1 controllers, and where it is.

    ``root`` is the part of the hierarchy that is mounted at ``mount``.
    """

    version: int
    controllers: frozenset[str]
    mount: Path
    root: PurePosixPath

    def place(self, own: str) -> Path:
        """Return the directory of the calling thread, of which ``own`` is /proc's text.

        Raises
        ------
        NoCgroups
            when it lies outside of what is mounted.
        """
        for line in own.splitlines():
            _, names, path = line.split(":", 2)
            if self._means(names):
                try:
                    return self.mount / PurePosixPath(path).relative_to(self.root)
                except ValueError:
                    break
        raise NoCgroups(errno.ENOENT, f"this thread's control group is not below {self.mount}")

    def _means(self, names: str) -> bool:
        if self.version == 2:
            return not names
        return bool(self.controllers & set(names.split(",")))


def parse(mounts: str) -> list[Hierarchy]:
    """Return the hierarchies that ``mounts``, the text of a mountinfo, tells of; first come first.

    Those of version 1 without the controllers that count CPU or memory are left out.
    """
    found = []
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        root, mount = (_unescaped(f) for f in before.split()[3:5])
        kind, _, options = after.split(" ", 2)
        wanted = frozenset(options.split(",")) & {"cpuacct", "memory"}
        if kind == "cgroup2" or (kind == "cgroup" and wanted):
            version = 2 if kind == "cgroup2" else 1
            names = frozenset() if version == 2 else wanted
            found.append(Hierarchy(version, names, Path(mount), PurePosixPath(root)))
    return found


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)


@dataclass(slots=True)
class Directory:
    """One control group that we made, and removes itself.

    ``handed`` is where the parent's memory controller had to be switched on for it.
    """

    hierarchy: Hierarchy
    path: Path
    handed: Path | None = None

    def read(self, name: str) -> dict[str, int]:
        """Return a file of ``key value`` lines; a file of one number has the key ``""``."""
        text = (self.path / name).read_text()
        rows = (line.rpartition(" ") for line in text.splitlines())
        return {key: int(value) for key, _, value in rows}

    def pids(self) -> set[int]:
        """Return who is in it, 0 for processes that this pid namespace cannot name."""
        return {int(p) for p in (self.path / "cgroup.procs").read_text().split()}

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread's children born here: it moves here, and back at the end.

        Version 1 moves the thread alone. Version 2 lets a thread leave its process's group only
        within threaded groups, which can have no memory controller, so the process moves whole:
        children of its other threads would be born here as well.
        """
        back = self.hierarchy.place(_PLACE.read_text())
        _move(self.hierarchy, self.path)
        try:
            yield
        finally:
            _move(self.hierarchy, back)

    def remove(self) -> None:
        """Remove it; the last of its processes must have ended. Raises OSError."""
        deadline = time.monotonic() + _REMOVAL_SECONDS
        while True:
            try:
                self.path.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:  # whoever has just ended is let go of a moment later
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if self.handed is not None:
            with contextlib.suppress(OSError):  # somebody else needs it by now
                (self.handed / "cgroup.subtree_control").write_text("-memory")


def _move(hierarchy: Hierarchy, to: Path) -> None:
    if hierarchy.version == 1:
        (to / "tasks").write_text(str(threading.get_native_id()))
    else:
        (to / "cgroup.procs").write_text(str(os.getpid()))


@dataclass(frozen=True, slots=True)
class Directories:
    """A group's directories: one that counts CPU, one memory, and the one of version 2, if any.

    They may be one and the same.
    """

    cpu: Directory
    memory: Directory
    unified: Directory | None

    def all(self) -> list[Directory]:
        """Return each once."""
        found: list[Directory] = []
        for each in (self.cpu, self.memory, self.unified):
            if each is not None and all(each is not f for f in found):
                found.append(each)
        return found


def make(name: str, hierarchies: Sequence[Hierarchy] | None = None) -> Directories:
    """Make a control group below this thread's own, in every hierarchy that it needs.

    CPU is version 1's where there is cpuacct (nanoseconds), else version 2's, and so is memory.
    Empty groups that a killed process of ours left are removed on the way.

    Raises
    ------
    NoCgroups
        when there are none, or this user may not make one or move into it.
    """
    known = parse(_MOUNTS.read_text()) if hierarchies is None else list(hierarchies)
    second = next((h for h in known if h.version == 2), None)
    cpu = next((h for h in known if "cpuacct" in h.controllers), second)
    memory = next((h for h in known if "memory" in h.controllers), second)
    if cpu is None or memory is None:
        raise NoCgroups(errno.ENOENT, "no control groups are mounted that count CPU and memory")
    directory = f"{PREFIX}-{os.getpid()}-{name}"
    made: dict[Hierarchy, Directory] = {}
    try:
        for hierarchy in (cpu, memory, second):
            if hierarchy is not None and hierarchy not in made:
                made[hierarchy] = _make(
                    hierarchy,
                    directory,
                    memory=memory is hierarchy,
                    own=hierarchy.place(_PLACE.read_text()),
                )
        for each in made.values():
            with each.entered():  # what cannot be done should be known now
                pass
    except OSError as e:
        for each in made.values():
            each.remove()
        if isinstance(e, NoCgroups):
            raise
        raise NoCgroups(e.errno, f"cannot make a control group: {e}") from e
    return Directories(made[cpu], made[memory], made.get(second) if second else None)


def _make(hierarchy: Hierarchy, name: str, *, memory: bool, own: Path) -> Directory:
    if hierarchy.version == 1:
        _sweep(own)
        (own / name).mkdir()
        return Directory(hierarchy, own / name)
    # A group with processes cannot hand out controllers (the root of all can): then a sibling.
    ancestors = [p for p in (own, *own.parents) if p.is_relative_to(hierarchy.mount)]
    why = NoCgroups(errno.ENOENT, "no control group above this one counts memory")
    for parent in ancestors:
        try:
            _sweep(parent)
            (parent / name).mkdir()
        except OSError as e:
            why = NoCgroups(e.errno, f"cannot make a control group: {e}")
            continue
        found = Directory(hierarchy, parent / name)
        if memory and not (found.path / "memory.stat").exists():
            with contextlib.suppress(OSError):
                (parent / "cgroup.subtree_control").write_text("+memory")
                found.handed = parent
        if not memory or (found.path / "memory.stat").exists():
            return found
        found.remove()
    raise why


def _sweep(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}-*"):
        named = _NAME.match(path.name)
        if named and not Path(f"/proc/{named[1]}").exists():
            with contextlib.suppress(OSError):  # it has processes: theirs to end
                path.rmdir()
