"""Where kernel maps and programs stay when the agent goes.

Why: the agent that comes next must find who is plugged in, where routes lead and
what was counted, so maps and program are pinned in a bpffs directory. It holds one
subdirectory for each layout. This module must not know what the maps are for.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_BPF_FS_MAGIC = 0xCAFE4A11
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_OURS = "lifl-"
_UNFINISHED = "lifl-new-"
_LIBC = ctypes.CDLL(None, use_errno=True)


def _failure(what: str) -> OSError:
    """Return the last ctypes call's errno as an OSError."""
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def prepare(directory: Path) -> None:
    """Make ``directory`` a place for pins, mounting a bpffs on it when it is none.

    What a killed agent left half pinned is removed. Raises OSError when the
    directory cannot be made or this process may not mount.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not _is_bpffs(directory) and _LIBC.mount(
        b"bpf", os.fsencode(directory), b"bpf", _MS_NOSUID_NODEV_NOEXEC, b"mode=0700"
    ):
        raise _failure(f"cannot mount a bpffs on {directory}")
    for left in directory.glob(_UNFINISHED + "*"):
        _remove_tree(left)


def place(directory: Path, layout: str) -> Path:
    """Return where the pins of ``layout`` are, or would be."""
    return directory / f"{_OURS}{layout}"


def unfinished(directory: Path) -> Path:
    """Make and return the directory to pin into before :func:`finish`."""
    path = directory / f"{_UNFINISHED}{os.getpid()}"
    path.mkdir(mode=0o700)
    return path


def finish(path: Path, layout: str) -> None:
    """Give finished pins their name in one step, then drop those of other layouts.

    Functions plugged into another layout cannot be carried over. The kernel keeps
    program and maps while a socket is in them, so those functions go on among
    themselves until they register again and get a data socket of the new layout.
    """
    final = path.rename(place(path.parent, layout))
    for other in final.parent.glob(_OURS + "*"):
        if other != final:
            _remove_tree(other)


def remove(directory: Path) -> None:
    """Unpin what is ours under ``directory``; when nothing else is left, take it away too."""
    if not directory.is_dir() or not _is_bpffs(directory):
        return
    for layout in directory.glob(_OURS + "*"):
        _remove_tree(layout)
    if any("." not in left.name for left in directory.iterdir()):  # dots are the kernel's own
        return
    if directory.is_mount() and _LIBC.umount2(os.fsencode(directory), 0):
        raise _failure(f"cannot unmount {directory}")
    directory.rmdir()


def _remove_tree(path: Path) -> None:
    for pin in path.iterdir():
        pin.unlink()
    path.rmdir()


def _is_bpffs(path: Path) -> bool:
    # struct statfs starts with the type, a long; 256 bytes hold it on every architecture.
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.statfs(os.fsencode(path), buffer):
        raise _failure(f"cannot look at {path}")
    return ctypes.c_uint32.from_buffer(buffer).value == _BPF_FS_MAGIC
