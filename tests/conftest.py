"""What all tests share: the eBPF marker, and fixtures that find leaks."""

from __future__ import annotations

import ctypes
import gc
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from lifl import bpf
from lifl.platform import doctor

OTHERS = "lifl-kube-"
"""Files of API servers in ``/dev/shm``: another test session's, which may run beside this one."""
SETTLE_SECONDS = 3.0
"""How long a worker of this session that runs beside this one may keep a file in ``/dev/shm``."""
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")  # on a busy machine any example may take a second
REQUIRE_EBPF = os.environ.get("LIFL_REQUIRE_EBPF") == "1"
ALONE = (
    "tests/e2e/",
    "tests/integration/bench/",
    "tests/integration/test_agent",
    "tests/integration/test_aggregator_knative",
    "tests/integration/test_gateway_serving",
    "tests/integration/test_loader",
    "tests/integration/test_platform",
    "tests/integration/test_switch",
)
"""Tests of whole platforms, of the kernel's objects, of seconds: never two of them at once."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give what is in ALONE to one worker, and every other file as a whole to one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "alone" if nodeid.startswith(ALONE) else nodeid.partition("::")[0]

    return ByFile(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of the kernel data plane where there is none; fail it where there must be one."""
    if item.get_closest_marker("ebpf") is None:
        return
    missing = [c for c in doctor.checks() if c.needed_for == "ebpf" and not c.ok]
    if not missing:
        return
    reason = "no eBPF data plane: " + "; ".join(f"{c.name}: {c.detail}" for c in missing)
    if REQUIRE_EBPF:
        pytest.fail(f"{reason} (LIFL_REQUIRE_EBPF=1)", pytrace=False)
    pytest.skip(reason)


@dataclass(frozen=True)
class Held:
    """What this process holds at one moment."""

    threads: frozenset[str]
    fds: frozenset[str]
    children: frozenset[int]
    shared_memory: frozenset[str]

    @classmethod
    def now(cls) -> Held:
        """Look at ``/proc/self`` and ``/dev/shm``."""
        gc.collect()
        return cls(
            frozenset(t.name for t in threading.enumerate()),
            frozenset(_fds()),
            frozenset(_children()),
            frozenset(
                n for p in Path("/dev/shm").iterdir() if not (n := p.name).startswith(OTHERS)
            ),
        )


def _fds() -> Iterator[str]:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            yield f"{entry.name} -> {entry.readlink()}"
        except FileNotFoundError:  # the descriptor of this very listing
            continue


def _children() -> set[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in text.split()}


def pytest_collection_finish() -> None:
    """Leave what the imports made, a million objects, out of each of ``Held``'s collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail if the test leaves a thread, descriptor, child process, memfd or shm file behind.

    A file in ``/dev/shm`` has been left behind if it stays: a process of another worker's test may
    have one there for a moment, as gunicorn does.
    """
    before = Held.now()
    yield
    after = Held.now()
    left = {
        what: sorted(map(str, getattr(after, what) - getattr(before, what)))
        for what in ("threads", "fds", "children", "shared_memory")
    }
    deadline = time.monotonic() + SETTLE_SECONDS
    while left["shared_memory"] and time.monotonic() < deadline:
        time.sleep(0.02)
        left["shared_memory"] = [n for n in left["shared_memory"] if Path("/dev/shm", n).exists()]
    left = {what: names for what, names in left.items() if names}
    assert not left, f"left behind: {left}"


def _bpf_ids() -> set[str]:
    """Return the kernel's BPF programs and maps, by bpf(2)'s ``*_GET_NEXT_ID``."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = set()
    for kind, command in (("program", 11), ("map", 12)):
        last = 0
        while True:
            attributes = ctypes.create_string_buffer(struct.pack("<III", last, 0, 0), 12)
            number = bpf.BPF_CALL[os.uname().machine]
            if libc.syscall(number, command, attributes, 12) != 0:
                break
            _, last, _ = struct.unpack("<III", attributes.raw)
            found.add(f"{kind} {last}")
    return found


@pytest.fixture
def bpf_ids() -> Callable[[], set[str]]:
    """Return how to list the kernel's BPF programs and maps (``program 7``, ``map 12``)."""
    return _bpf_ids


@pytest.fixture
def no_bpf_leaks() -> Iterator[None]:
    """Fail if the test leaves a BPF program or map behind; needs root and nobody else's programs.

    The kernel frees them a moment after their last reference, hence the wait.
    """
    before = _bpf_ids()
    yield
    deadline = time.monotonic() + 3.0
    while (left := _bpf_ids() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"BPF objects left behind: {sorted(left)}"


class Authority:
    """A certificate authority of one test."""

    def __init__(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
        self.certificate = self._sign(self._name, self._key.public_key(), (), ca=True)

    def _sign(
        self, subject: Any, key: Any, names: Sequence[str], *, ca: bool = False, age: float = 0.0
    ) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        now = datetime.now(UTC) - timedelta(days=age)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            dns = x509.SubjectAlternativeName([x509.DNSName(n) for n in names])
            builder = builder.add_extension(dns, critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    def write(self, directory: Path, *names: str, common: str = "x", age: float = 0.0) -> Path:
        """Put ca.crt and a new tls.crt, tls.key for DNS ``names`` into ``directory``.

        ``age`` in days: more than one, and it has expired.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "ca.crt").write_bytes(self.certificate)
        (directory / "tls.crt").write_bytes(self._sign(subject, key.public_key(), names, age=age))
        (directory / "tls.key").write_bytes(pem)
        return directory


@pytest.fixture
def new_authority() -> Callable[[], Authority]:
    """Return how to make a certificate authority; see Authority."""
    return Authority
