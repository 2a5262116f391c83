"""A process of the same user gets at a function's pool in none of the known ways."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lifl.dataplane import hardening

# As root the test needs an interpreter that an unprivileged user can run, and that
# user; started by exec, so that it is dumpable as any program is at first.
ROOT = os.geteuid() == 0
USER = 65534 if ROOT else os.getuid()
PYTHON = (shutil.which("python3", path="/usr/bin:/bin") if ROOT else sys.executable) or ""

VICTIM = """
import os, sys
fd = os.memfd_create("pool")
os.write(fd, b"secret")
print(fd, flush=True)
sys.stdin.read()
"""

ATTACKS = {
    "proc": "os.open(f'/proc/{pid}/fd/{fd}', os.O_RDWR)",
    "pidfd_getfd": "call(438, os.pidfd_open(pid), fd, 0)",
    "ptrace": "call(101, 16, pid, 0, 0)",
    "mem": "os.open(f'/proc/{pid}/mem', os.O_RDWR)",
}
ATTACK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
pid, fd = {pid}, {fd}
try:
    {attack}
except PermissionError:
    sys.exit(13)
"""


@contextmanager
def victim(sealed: bool) -> Iterator[tuple[int, int]]:
    source = Path(hardening.__file__).read_text() + ("\nseal_process()\n" if sealed else "")
    source = source.replace("from __future__ import annotations\n", "") + VICTIM
    process = subprocess.Popen(
        [PYTHON, "-c", source], user=USER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


def attack(how: str, pid: int, fd: int) -> int:
    code = ATTACK.format(pid=pid, fd=fd, attack=ATTACKS[how])
    return subprocess.run([PYTHON, "-c", code], user=USER, check=False).returncode


def test_the_attack_works_on_a_process_that_is_not_sealed() -> None:
    with victim(sealed=False) as (pid, fd):
        assert attack("proc", pid, fd) == 0


@pytest.mark.parametrize(
    "how",
    [
        "proc",
        "mem",
        *(["pidfd_getfd", "ptrace"] if os.uname().machine == "x86_64" else []),
    ],
)
def test_a_sealed_process_keeps_its_pool(how: str) -> None:
    with victim(sealed=True) as (pid, fd):
        assert attack(how, pid, fd) == 13
