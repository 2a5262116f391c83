"""Compile, load, pin and adopt the kernel program: the one importer of bcc.

Why: bcc wants the headers of the running kernel in one tree; hosts have those of
some kernel, often split in two packages. The program uses only types that every
kernel shares, so any installed headers do, and they are joined by symbolic links
in a temporary directory. Nothing is ever written outside it and the pin directory.
It must not know what the maps mean.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebpf.agent import pins
from ebpf.agent.sockmap import Map, failure, possible_cpus
from lifl import wire
from lifl.errors import ConfigError

_ROOT = Path(__file__).resolve().parent.parent
_HEADER = _ROOT / "include" / "lifl_wire.h"
_SOURCE = _ROOT / "bpf" / "lifl_route.c"
_PROGRAM = "lifl_route"
_SK_MSG = 16  # BPF_PROG_TYPE_SK_MSG
_SK_MSG_VERDICT = 7  # BPF_SK_MSG_VERDICT

_VALUE_BYTES = {
    "sockets": 8,
    "identities": wire.IDENTITY.size,
    "endpoints": wire.ENDPOINT.size,
    "routes": wire.ROUTE.size,
    "groups": wire.GROUP.size,
    "counters": wire.COUNTERS.size,
    "drops": 8,
}
"""Every map of the program and the bytes of its values."""
_PER_CPU = {"counters", "drops"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernel:
    """The loaded program and its maps, as descriptors that this object owns.

    ``adopted`` tells whether they were found pinned; ``pinned`` whether another
    agent can find them.
    """

    maps: Mapping[str, Map]
    program: int
    adopted: bool
    pinned: bool

    def close(self) -> None:
        """Let go of the descriptors; what is pinned stays and keeps routing."""
        for fd in (self.program, *(m.fd for m in self.maps.values())):
            os.close(fd)


def layout() -> str:
    """Return the name of this program and its maps: another text is another layout."""
    digest = hashlib.sha256(_HEADER.read_bytes() + _SOURCE.read_bytes())
    return digest.hexdigest()[:16]


def open_kernel(pin_dir: Path | None = None) -> Kernel:
    """Adopt the maps pinned in ``pin_dir``, or compile, load and pin them there.

    Without a directory, or where this process may not mount one, functions route on
    after this process's end, but no other agent can take over.

    Raises
    ------
    ConfigError
        when bcc, the kernel's headers or the right to load programs are missing.
    """
    bcc = _import_bcc()
    if pin_dir is not None:
        try:
            pins.prepare(pin_dir)
        except OSError as e:
            _log.warning("kernel state is not pinned, the next agent will start anew: %s", e)
            pin_dir = None
    if pin_dir is not None:
        found = pins.place(pin_dir, layout())
        if found.is_dir():
            return _adopt(bcc.lib, found)
    return _build(bcc, pin_dir)


def _import_bcc() -> Any:
    try:
        return importlib.import_module("bcc")
    except ImportError as e:
        raise ConfigError(
            f"the eBPF data plane needs bcc's Python module ({e}): "
            "on Debian and Ubuntu, apt install python3-bpfcc"
        ) from e


def _maps(lib: Any, fds: Mapping[str, int]) -> dict[str, Map]:
    cpus = possible_cpus()
    return {
        name: Map(lib, fds[name], size, cpus if name in _PER_CPU else 1)
        for name, size in _VALUE_BYTES.items()
    }


def _adopt(lib: Any, directory: Path) -> Kernel:
    fds = {}
    for name in (*_VALUE_BYTES, _PROGRAM):
        fd = lib.bpf_obj_get(os.fsencode(directory / name))
        if fd < 0:
            raise failure(f"cannot open {directory / name}")
        fds[name] = fd
    return Kernel(_maps(lib, fds), fds[_PROGRAM], adopted=True, pinned=True)


def _build(bcc: Any, pin_dir: Path | None) -> Kernel:
    lib = bcc.lib
    with _kernel_source(find_headers()):
        try:
            module = bcc.BPF(src_file=os.fsencode(_SOURCE), cflags=[f"-I{_HEADER.parent}"])
        except Exception as e:
            raise ConfigError(
                f"bcc can make no maps or program of {_SOURCE.name} ({e}; its own words are on "
                "the standard error): root, or CAP_BPF and CAP_NET_ADMIN, is needed"
            ) from e
    try:
        # The module closes its own descriptors; these outlive it and the compiler's memory.
        fds = {n: os.dup(lib.bpf_table_fd(module.module, n.encode())) for n in _VALUE_BYTES}
        fds[_PROGRAM] = os.dup(module.load_func(_PROGRAM.encode(), _SK_MSG).fd)
    except Exception as e:
        raise ConfigError(f"the kernel refuses the eBPF program: {e}") from e
    finally:
        module.cleanup()
    if lib.bpf_prog_attach(fds[_PROGRAM], fds["sockets"], _SK_MSG_VERDICT, 0):
        raise ConfigError(str(failure("cannot attach the eBPF program")))
    if pin_dir is not None:
        _pin(lib, fds, pin_dir)
    return Kernel(_maps(lib, fds), fds[_PROGRAM], adopted=False, pinned=pin_dir is not None)


def _pin(lib: Any, fds: Mapping[str, int], pin_dir: Path) -> None:
    directory = pins.unfinished(pin_dir)
    for name, fd in fds.items():
        if lib.bpf_obj_pin(fd, os.fsencode(directory / name)):
            raise failure(f"cannot pin {directory / name}")
    pins.finish(directory, layout())


def find_headers(root: Path = Path("/")) -> list[Path]:
    """Return one installed kernel-header tree, in one or two directories.

    The running kernel's if installed, else the newest. A tree whose Makefile only
    includes another one (Debian's per-architecture package) is returned with it.

    Raises
    ------
    ConfigError
        when no headers are installed.
    """
    running = root / "lib/modules" / platform.release() / "build"
    others = [*root.glob("lib/modules/*/build"), *root.glob("usr/src/linux-headers-*")]
    for tree in [running, *sorted(others, key=_version, reverse=True)]:
        trees = [tree, *_included(tree)]
        if _has(trees, "include/linux/kconfig.h") and _has(trees, "include/generated/autoconf.h"):
            return trees
    raise ConfigError(
        "the eBPF data plane needs kernel headers, those of any version: "
        "on Debian, apt install linux-headers-amd64; on Ubuntu, linux-headers-generic"
    )


def _version(tree: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", str(tree))]


def _included(tree: Path) -> list[Path]:
    makefile = tree / "Makefile"
    text = makefile.read_text(errors="replace") if makefile.is_file() else ""
    return [Path(p) for p in re.findall(r"^include (/\S+)/Makefile$", text, re.MULTILINE)]


def _has(trees: Sequence[Path], name: str) -> bool:
    return any((tree / name).is_file() for tree in trees)


@contextmanager
def _kernel_source(trees: Sequence[Path]) -> Iterator[None]:
    """Show bcc the trees as one, by the variable it reads, for the time of a build."""
    name = "BCC_KERNEL_SOURCE"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(prefix="lifl-headers-") as temporary:
        joined = Path(temporary) / "kernel"
        join(trees, joined)
        os.environ[name] = str(joined)
        try:
            yield
        finally:
            del os.environ[name]
            if before is not None:
                os.environ[name] = before


def join(sources: Sequence[Path], target: Path) -> None:
    """Make ``target`` a directory of links to the sources' entries.

    Directories that several sources have are joined in turn; of files, the first counts.
    """
    target.mkdir()
    entries: dict[str, list[Path]] = {}
    for source in sources:
        for entry in source.iterdir():
            entries.setdefault(entry.name, []).append(entry)
    for name, found in entries.items():
        if len(found) > 1 and all(entry.is_dir() for entry in found):
            join(found, target / name)
        else:
            (target / name).symlink_to(found[0].resolve())
