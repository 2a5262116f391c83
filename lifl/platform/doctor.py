"""What this machine lacks for the eBPF data plane, and the command that fixes it.

Why: the plain-socket data plane takes over silently well; a person who wants the
kernel's must be told exactly what is missing. It must not change anything, and
must not import bcc (the agent's loader alone does).
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import platform
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lifl import bpf
from lifl.platform.local import closed_paths, program_paths

_MAP_SOCKHASH, _PROG_SK_MSG = 18, 16
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_BPF = 12, 21, 39


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. ``needed_for`` is "ebpf", "redis" or "isolation"."""

    name: str
    ok: bool
    detail: str
    fix: str
    needed_for: str


def checks() -> list[Check]:
    """Look at everything, in the order in which a person would fix it."""
    return list(_all())


def ebpf_ready(found: list[Check]) -> bool:
    """Say whether nothing that the eBPF data plane needs is missing."""
    return all(c.ok for c in found if c.needed_for == "ebpf")


def to_json(found: list[Check]) -> dict[str, Any]:
    """Return the outcome for a script."""
    return {"ebpf": ebpf_ready(found), "checks": [asdict(c) for c in found]}


def default_dataplane() -> tuple[str, str]:
    """Return the data plane to use when none was asked for, and the first reason against eBPF."""
    missing = [c for c in checks() if c.needed_for == "ebpf" and not c.ok]
    if not missing:
        return "ebpf", ""
    return "socket", f"{missing[0].name}: {missing[0].detail}"


def _all() -> Iterator[Check]:
    yield Check(
        "linux",
        sys.platform == "linux" and platform.machine() in bpf.BPF_CALL,
        f"{platform.system()} {platform.machine()}",
        "use a 64-bit Linux machine",
        "ebpf",
    )
    yield _capabilities()
    yield _sockhash()
    yield _sk_msg()
    compiled = os.environ.get("LIFL_BPF_OBJECT", "")
    if compiled:
        yield _object(Path(compiled))
    else:
        yield _bcc()
        yield _headers()
    yield _bpffs()
    redis = shutil.which("redis-server")
    yield Check(
        "redis-server",
        redis is not None,
        redis or "not found; the coordinator keeps its state in SQLite",
        "apt-get install redis-server",
        "redis",
    )
    yield _isolation()


def _capabilities() -> Check:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = int(next(line for line in lines if line.startswith("CapEff:")).split()[1], 16)

    def has(capability: int) -> bool:
        return bool(effective >> capability & 1)

    missing = []
    if not (has(_CAP_BPF) or has(_CAP_SYS_ADMIN)):
        missing.append("CAP_BPF")
    if not (has(_CAP_NET_ADMIN) or has(_CAP_SYS_ADMIN)):
        missing.append("CAP_NET_ADMIN")
    return Check(
        "capabilities",
        not missing,
        f"missing {', '.join(missing)}" if missing else "CAP_BPF and CAP_NET_ADMIN",
        "run as root: sudo make demo",
        "ebpf",
    )


def _sockhash() -> Check:
    attributes = struct.pack("<IIIII", _MAP_SOCKHASH, 4, 4, 1, 0)
    return _syscall_check("sockhash map", bpf.MAP_CREATE, attributes, "CONFIG_BPF_STREAM_PARSER")


def _sk_msg() -> Check:
    program = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    instructions = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQ",
        _PROG_SK_MSG,
        len(program) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_),
        0,
        0,
        0,
    )
    return _syscall_check("sk_msg program", bpf.PROG_LOAD, attributes, "CONFIG_NET_SOCK_MSG")


def _syscall_check(name: str, command: int, attributes: bytes, option: str) -> Check:
    problem = _try_bpf(command, attributes)
    if not problem:
        return Check(name, True, "the kernel makes it", "", "ebpf")
    denied = problem in {errno.EPERM, errno.EACCES}
    fix = "run as root: sudo make demo" if denied else f"use a kernel built with {option}=y"
    return Check(name, False, os.strerror(problem), fix, "ebpf")


def _try_bpf(command: int, attributes: bytes) -> int:
    """Try one bpf(2) call and return its errno, 0 if it worked; what it made is closed at once."""
    try:
        os.close(bpf.call(command, attributes))
    except OSError as e:
        return e.errno or errno.EIO
    return 0


def _object(path: Path) -> Check:
    return Check(
        "eBPF object",
        path.is_file(),
        f"{path} takes bcc's and the headers' place" if path.is_file() else f"no file {path}",
        f"scripts/bpf-object {path}",
        "ebpf",
    )


def _bcc() -> Check:
    found = importlib.util.find_spec("bcc") is not None
    debian = Path("/usr/lib/python3/dist-packages/bcc").is_dir()
    return Check(
        "bcc",
        found,
        "Python module found" if found else "Python module not found",
        "make setup" if debian else "apt-get install python3-bpfcc && make setup",
        "ebpf",
    )


def _headers() -> Check:
    places = [*Path("/usr/src").glob("linux-headers-*"), *Path("/lib/modules").glob("*/build")]
    found = [p for p in places if (p / "include").is_dir() or (p / "arch").is_dir()]
    ubuntu = "ubuntu" in _os_release().lower()
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    package = "linux-headers-generic" if ubuntu else f"linux-headers-{arch}"
    return Check(
        "kernel headers",
        bool(found),
        f"{len(found)} found" if found else "none in /usr/src or /lib/modules",
        f"apt-get install {package}",
        "ebpf",
    )


def _os_release() -> str:
    path = Path("/etc/os-release")
    return path.read_text() if path.exists() else ""


def _bpffs() -> Check:
    known = "bpf" in Path("/proc/filesystems").read_text().split()
    return Check(
        "bpffs",
        known,
        "the agent mounts one of its own" if known else "the kernel does not know it",
        "use a kernel built with CONFIG_BPF_SYSCALL=y",
        "ebpf",
    )


def _isolation() -> Check:
    if os.geteuid() != 0:
        return Check(
            "job isolation",
            False,
            "not root: all jobs run as this user and are not isolated from each other",
            "run as root: sudo make demo",
            "isolation",
        )
    closed = closed_paths(program_paths())
    return Check(
        "job isolation",
        not closed,
        f"other users cannot reach {closed[0]}" if closed else "each job gets a user of its own",
        "put the checkout and its Python where every user may read them (not below /root), "
        "then make clean setup",
        "isolation",
    )
