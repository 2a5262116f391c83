"""Load the kernel program from an object that clang made: the one user of libbpf.

Why: an image then needs neither a compiler of 500 MB nor its node's kernel headers, and
an agent starts in milliseconds. libbpf is called by ctypes; releases 0.x and 1.x differ
in how they report errors only. It must not know what the maps mean.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lifl.errors import ConfigError

_NAMES = ("libbpf.so.1", "libbpf.so.0")
_WARNING = 0  # LIBBPF_WARN
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_LIBC = ctypes.CDLL(None)
_LIBC.vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

_log = logging.getLogger(__name__)


def load(path: Path, layout: str, maps: Iterable[str], program: str) -> dict[str, int]:
    """Load the object; return the descriptors of ``maps`` and ``program``, by name.

    ``layout`` is that of the sources which the object must have been made of.

    Raises
    ------
    ConfigError
        when the object is missing or another's, libbpf is missing, or the kernel refuses.
    """
    try:
        image = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"the eBPF object {path} cannot be read: {e.strerror}") from e
    if layout.encode() not in image:
        raise ConfigError(
            f"the eBPF object {path} was made of other sources than this agent's: "
            "make it again with scripts/bpf-object"
        )
    lib = _library()
    said: list[str] = []
    listener = _PRINT(lambda level, text, args: _listen(said, level, text, args))
    lib.libbpf_set_print(listener)
    try:
        return _load(lib, path, [*maps], program, said)
    finally:
        lib.libbpf_set_print(_PRINT(0))


def _load(lib: Any, path: Path, maps: list[str], program: str, said: list[str]) -> dict[str, int]:
    module = lib.bpf_object__open(os.fsencode(path))
    if lib.libbpf_get_error(module):
        raise ConfigError(f"libbpf cannot read the object {path}: {_summary(said)}")
    try:
        if lib.bpf_object__load(module):
            raise ConfigError(
                f"the kernel refuses the eBPF program ({_summary(said)}): "
                "root, or CAP_BPF and CAP_NET_ADMIN, is needed"
            )
        fds = {n: lib.bpf_object__find_map_fd_by_name(module, n.encode()) for n in maps}
        found = lib.bpf_object__find_program_by_name(module, program.encode())
        fds[program] = lib.bpf_program__fd(found) if found else -1
        missing = [name for name, fd in fds.items() if fd < 0]
        if missing:
            raise ConfigError(f"the eBPF object {path} has no {', '.join(missing)}")
        # The object closes its own descriptors; these outlive it.
        return {name: os.dup(fd) for name, fd in fds.items()}
    finally:
        lib.bpf_object__close(module)


def _library() -> Any:
    for name in _NAMES:
        try:
            lib = ctypes.CDLL(name)
        except OSError:
            continue
        for function in ("bpf_object__open", "bpf_object__find_program_by_name"):
            getattr(lib, function).restype = ctypes.c_void_p
        lib.bpf_object__open.argtypes = [ctypes.c_char_p]
        lib.libbpf_get_error.argtypes = [ctypes.c_void_p]
        lib.libbpf_get_error.restype = ctypes.c_long
        for function in ("bpf_object__load", "bpf_object__close", "bpf_program__fd"):
            getattr(lib, function).argtypes = [ctypes.c_void_p]
        for function in ("bpf_object__find_map_fd_by_name", "bpf_object__find_program_by_name"):
            getattr(lib, function).argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        lib.libbpf_set_print.argtypes = [_PRINT]
        lib.libbpf_set_print.restype = ctypes.c_void_p
        return lib
    raise ConfigError(
        "the eBPF object needs libbpf: apt install libbpf1, or libbpf0 on older systems"
    )


def _listen(said: list[str], level: int, text: bytes, args: int | None) -> int:
    """Keep what libbpf warns of; ``args`` is a va_list, a pointer wherever bpf(2) is known."""
    if level == _WARNING:
        buffer = ctypes.create_string_buffer(4096)
        _LIBC.vsnprintf(buffer, len(buffer), text, args)
        said.append(buffer.value.decode(errors="replace").strip())
        _log.warning("%s", said[-1])
    return 0


def _summary(said: list[str]) -> str:
    """Return the first warnings: what follows says what failed in consequence."""
    return "; ".join(said)[:400] or "it does not say why"
