"""The audit of real processes: known numbers of bytes, switches and calls must come out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.compare.audit import Audit
from bench.compare.counts import Counts
from bench.compare.groups import ControlGroup, open_group
from lifl import bpf
from lifl.errors import ConfigError

pytestmark = pytest.mark.ebpf

ROOT = Path(__file__).resolve().parents[4]
MB = 1 << 20
TRANSFER = """
import socket, sys, threading
sent, piece = int(sys.argv[2]), 1 << 16
def pair():
    if sys.argv[1] == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]
def receive(s):
    left = sent
    while left:
        left -= len(s.recv(min(left, piece)))
a, b = pair()
reader = threading.Thread(target=receive, args=(b,))
reader.start()
for at in range(0, sent, piece):
    a.sendall(bytes(min(piece, sent - at)))
reader.join()
a.close()
b.close()
"""


@pytest.fixture(scope="module")
def audited() -> Iterator[tuple[ControlGroup, Audit]]:
    """One compilation for all tests; each looks at the difference."""
    with open_group("audit") as group:
        assert isinstance(group, ControlGroup)
        with Audit(group) as audit:
            assert set(audit.missing) <= {"page_faults"}
            yield group, audit


def run(audited: tuple[ControlGroup, Audit], code: str, *arguments: str) -> Counts:
    """Run a program in the group; return what it made the kernel do."""
    group, audit = audited
    before = audit.counts()
    with group.adopt():
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL
        )
    assert process.wait(60) == 0
    return audit.counts().since(before)


def test_bytes_over_loopback_are_copied_twice_and_pass_the_stack_once(
    audited: tuple[ControlGroup, Audit],
) -> None:
    size = 24 * MB + 5
    counts = run(audited, TRANSFER, "tcp", str(size))
    assert counts.inet_sent == size
    assert counts.inet_received == size
    assert counts.unix_sent == counts.unix_received == 0
    assert counts.copies_out(size) == pytest.approx(1, abs=0.001)
    assert counts.copies_in(size) == pytest.approx(1, abs=0.05)
    assert 1 <= counts.passes_out(size) <= 1.05  # a second pass would be 2; headers are a few %
    assert 1 <= counts.passes_in(size) <= 1.05
    assert counts.sends == 24 * 16 + 1
    assert counts.receives >= counts.sends
    assert counts.softirqs_rx > 0
    assert counts.machine_softirqs_rx >= counts.softirqs_rx
    assert counts.syscalls > counts.sends + counts.receives
    assert counts.spliced == 0


def test_bytes_over_a_unix_socket_pass_no_stack(audited: tuple[ControlGroup, Audit]) -> None:
    size = 16 * MB
    counts = run(audited, TRANSFER, "unix", str(size))
    assert counts.unix_sent == counts.unix_received == size
    assert counts.inet_sent == counts.inet_received == 0
    assert counts.packets_in == counts.packets_out == 0
    assert counts.copies_out(size) == 1


def test_small_messages_are_no_payload(audited: tuple[ControlGroup, Audit]) -> None:
    code = """
import socket
a, b = socket.socketpair()
for _ in range(500):
    a.send(bytes(16))
    b.recv(16)
"""
    counts = run(audited, code)
    assert (counts.sends, counts.receives) == (500, 500)
    assert (counts.unix_sent, counts.unix_received) == (8000, 8000)
    assert (counts.large_sent, counts.large_received) == (0, 0)


def test_files_and_pipes_are_no_sockets_though_the_calls_are_the_same(
    audited: tuple[ControlGroup, Audit], tmp_path: Path
) -> None:
    code = """
import os, socket, sys
with open(sys.argv[1], "wb", 0) as f:
    f.write(bytes(3 << 20))
a, b = socket.socketpair()
os.write(a.fileno(), bytes(1 << 16))
os.read(b.fileno(), 1 << 16)
"""
    counts = run(audited, code, str(tmp_path / "f"))
    assert counts.other_written == 3 * MB
    assert (counts.unix_sent, counts.unix_received) == (1 << 16, 1 << 16)
    assert counts.other_read < 3 * MB  # Python's own start


def test_what_sendfile_sends_is_no_copy(
    audited: tuple[ControlGroup, Audit], tmp_path: Path
) -> None:
    code = """
import os, socket, sys, threading
size = 4 << 20
f = open(sys.argv[1], "w+b", 0)
f.truncate(size)
with socket.create_server(("127.0.0.1", 0)) as server:
    a = socket.create_connection(server.getsockname())
    b = server.accept()[0]
def receive():
    left = size
    while left:
        left -= len(b.recv(1 << 16))
reader = threading.Thread(target=receive)
reader.start()
at = 0
while at < size:
    at += os.sendfile(a.fileno(), f.fileno(), at, size - at)
reader.join()
"""
    counts = run(audited, code, str(tmp_path / "f"))
    assert counts.spliced == 4 * MB
    assert counts.inet_sent == 0
    assert counts.inet_received == 4 * MB


COUNT_SWITCHES = """
import os, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
ready, tell = os.pipe()
go_on, end = os.pipe()
pid = os.fork()
def switches():
    rows = open("/proc/self/status").read().splitlines()
    return [int(r.split()[1]) for r in rows if "ctxt_switches" in r]
until = time.process_time() + 0.2
while time.process_time() < until:
    pass
if pid == 0:
    os.write(tell, b"%d %d" % tuple(switches()))
    os.read(go_on, 1)
    os._exit(0)
theirs = [int(n) for n in os.read(ready, 99).split()]
print(*(a + b for a, b in zip(switches(), theirs)), flush=True)
sys.stdin.readline()
os.write(end, b"1")
os.waitpid(pid, 0)
"""


def test_switches_are_what_the_processes_own_accounts_say(
    audited: tuple[ControlGroup, Audit],
) -> None:
    group, audit = audited
    before, used = audit.counts(), group.usage().switches
    with group.adopt():
        process = subprocess.Popen(
            [sys.executable, "-c", COUNT_SWITCHES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    with process:
        assert process.stdout is not None
        voluntary, involuntary = (int(n) for n in process.stdout.readline().split())
        counts = audit.counts().since(before)
        process.communicate("\n")
    after = audit.counts().since(before)
    assert involuntary >= 2  # two that burn share one core
    # Each asks before it says so and waits; it may lose a contended core meanwhile.
    assert voluntary <= counts.switches_voluntary <= voluntary + 4
    assert involuntary <= counts.switches_involuntary <= involuntary * 1.03 + 4
    assert used is not None
    assert group.usage().switches - used == after.switches


def test_touched_pages_fault(audited: tuple[ControlGroup, Audit]) -> None:
    touch = """
import mmap, sys
m = mmap.mmap(-1, int(sys.argv[1]) << 12)
m.madvise(mmap.MADV_NOHUGEPAGE)
for i in range(0, len(m), 4096):
    m[i] = 1
"""
    few, many = (run(audited, touch, n).page_faults for n in ("1", "5001"))
    assert 4900 <= many - few <= 5100


def test_processes_outside_are_not_counted(audited: tuple[ControlGroup, Audit]) -> None:
    _, audit = audited
    before = audit.counts()
    subprocess.run([sys.executable, "-c", TRANSFER, "tcp", str(MB)], check=True)
    counts = audit.counts().since(before)
    mine = {n: getattr(counts, n) for n in Counts.__slots__ if not n.startswith("machine_")}
    assert {n for n, v in mine.items() if v} == set()


def test_descriptors_that_the_kernel_routes_are_counted(
    audited: tuple[ControlGroup, Audit],
) -> None:
    group, audit = audited
    code = """
import sys
from ebpf.agent.kernel_switch import KernelSwitch
from lifl.dataplane import open_channel
from lifl.wire import Descriptor, Kind, Opcode, RouteType
switch = KernelSwitch.open(None, None)
ends = [open_channel(switch.name, i, switch.plug(i, 1, Kind.AGGREGATOR)) for i in (1, 2)]
switch.set_route(1, RouteType.ENDPOINT, 2)
for i in range(100):
    ends[0].send(Descriptor(Opcode.OBJECT, i, 1, 1))
print("sent", flush=True)
sys.stdin.readline()
for end in ends:
    end.close()
switch.close()
"""
    before = audit.counts()
    with group.adopt():
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        counts = audit.counts().since(before)
        process.communicate("\n")
    assert counts.redirects == 100
    assert counts.sends == 100
    assert counts.inet_sent == 1600
    assert counts.packets_out == 0 or counts.packet_bytes_out < 100 * 1600


INFO = struct.Struct("=IIQ")
"""union bpf_attr: a program's descriptor, how much there is room for, where."""


def programs(bpf_ids: Callable[[], set[str]]) -> dict[str, str]:
    """Return the names of all programs that the kernel has loaded, by ``program 7``."""
    found = {}
    for key in bpf_ids():
        what, number = key.split()
        if what != "program":
            continue
        with contextlib.suppress(OSError):  # ended meanwhile
            fd = bpf.call(bpf.PROG_GET_FD_BY_ID, struct.pack("=I", int(number)))
            info = ctypes.create_string_buffer(80)  # as far as struct bpf_prog_info's name
            bpf.call(bpf.OBJ_GET_INFO_BY_FD, INFO.pack(fd, len(info), ctypes.addressof(info)))
            os.close(fd)
            found[key] = info.raw[64:].rstrip(b"\0").decode()
    return found


def test_nothing_of_it_is_left(no_leaks: None, bpf_ids: Callable[[], set[str]]) -> None:
    before = set(programs(bpf_ids))
    with open_group("left") as group, Audit(group) as audit:
        assert audit.counts().syscalls == 0
        loaded = {k: n for k, n in programs(bpf_ids).items() if k not in before}
        assert {"outgoing", "incoming"} <= set(loaded.values())
    assert not Path(str(group.unified)).exists()
    ours = {k for k, n in loaded.items() if n in ("outgoing", "incoming") or "__" in n}
    deadline = time.monotonic() + 3.0  # the kernel frees them a moment later
    while (left := ours & bpf_ids()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(ours) >= 9
    assert left == set()


def test_a_directory_that_is_no_control_group_is_refused(no_leaks: None, tmp_path: Path) -> None:
    class Nowhere:
        unified = tmp_path

        def pids(self) -> set[int]:
            return set()

    with pytest.raises(ConfigError, match="no control group"), Audit(Nowhere()):
        pytest.fail("it counts nobody")
