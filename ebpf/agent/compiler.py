"""Compile the kernel program when the agent starts: the one importer of bcc.

Why: a checkout has no object, and needs none where bcc is. bcc wants the headers of the
running kernel in one tree; hosts have those of some kernel, often split in two packages.
The program uses only types that every kernel shares, so any installed headers do, and
they are joined by symbolic links in a temporary directory. Nothing is written outside it.
It must not know what the maps mean.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lifl.errors import ConfigError

_SK_MSG = 16  # BPF_PROG_TYPE_SK_MSG


def build(source: Path, include: Path, maps: Iterable[str], program: str) -> dict[str, int]:
    """Compile and load; return the descriptors of ``maps`` and ``program``, by name.

    Raises
    ------
    ConfigError
        when bcc, the kernel's headers or the right to load programs are missing.
    """
    bcc = import_bcc()
    with kernel_source(find_headers()):
        try:
            module = bcc.BPF(src_file=os.fsencode(source), cflags=[f"-I{include}", "-DLIFL_BCC"])
        except Exception as e:
            raise ConfigError(
                f"bcc can make no maps or program of {source.name} ({e}; its own words are on "
                "the standard error): root, or CAP_BPF and CAP_NET_ADMIN, is needed"
            ) from e
    try:
        # The module closes its own descriptors; these outlive it and the compiler's memory.
        fds = {n: os.dup(bcc.lib.bpf_table_fd(module.module, n.encode())) for n in maps}
        fds[program] = os.dup(module.load_func(program.encode(), _SK_MSG).fd)
    except Exception as e:
        raise ConfigError(f"the kernel refuses the eBPF program: {e}") from e
    finally:
        module.cleanup()
    return fds


def import_bcc() -> Any:
    """Return bcc's Python module; raises ConfigError that says how to get it."""
    try:
        return importlib.import_module("bcc")
    except ImportError as e:
        raise ConfigError(
            f"the eBPF data plane needs bcc's Python module ({e}): "
            "on Debian and Ubuntu, apt install python3-bpfcc; or an object made by "
            "scripts/bpf-object, in LIFL_BPF_OBJECT"
        ) from e


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
def kernel_source(trees: Sequence[Path]) -> Iterator[None]:
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
