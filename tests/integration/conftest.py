"""Fixtures of tests that need real processes or the kernel data plane."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import redis

from ebpf.agent import loader
from ebpf.agent.kernel_switch import KernelSwitch
from ebpf.agent.settings import AgentSettings
from lifl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
OpenSwitch = Callable[..., KernelSwitch]


def absent(reason: str) -> NoReturn:
    """Skip a test of the kernel data plane; with LIFL_REQUIRE_EBPF set, fail it."""
    if os.environ.get("LIFL_REQUIRE_EBPF"):
        pytest.fail(f"the eBPF data plane is required here: {reason}")
    pytest.skip(f"no eBPF data plane here: {reason}")


@pytest.fixture(scope="session")
def bpf_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the kernel program as clang makes it."""
    if not (shutil.which("clang") and Path("/usr/include/bpf/bpf_helpers.h").exists()):
        absent("apt install clang libbpf-dev to make the object")
    path = tmp_path_factory.mktemp("bpf") / "lifl_route.o"
    subprocess.run([ROOT / "scripts/bpf-object", path], check=True, timeout=60)
    return path


@pytest.fixture
def switch_by(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], OpenSwitch]:
    """Choose who loads the program, here and in processes started: "bcc", or "object"."""

    def choose(way: str) -> OpenSwitch:
        if way == "object":
            monkeypatch.setenv("LIFL_BPF_OBJECT", str(request.getfixturevalue("bpf_object")))
        else:
            monkeypatch.delenv("LIFL_BPF_OBJECT", raising=False)
            assert not loader.OBJECT.exists(), f"remove {loader.OBJECT} to test bcc"

        def open_switch(pin_dir: Path | None = None) -> KernelSwitch:
            try:
                return KernelSwitch.open(pin_dir, AgentSettings.from_env().bpf_object)
            except ConfigError as e:
                absent(str(e))

        return open_switch

    return choose


@pytest.fixture(params=["bcc", "object"])
def kernel_switch(
    request: pytest.FixtureRequest, switch_by: Callable[[str], OpenSwitch]
) -> OpenSwitch:
    """Open the kernel switch, or skip where it cannot be; with LIFL_REQUIRE_EBPF set, fail."""
    return switch_by(request.param)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """Start a redis-server on a UNIX socket of the test's own; stop it by its process."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("redis-server is not installed (apt-get install redis-server)")
    socket = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path), "--save", ""]
    with (tmp_path / "redis.log").open("wb") as log:
        server = subprocess.Popen([program, *options, "--appendonly", "yes"], stdout=log)
    try:
        client = redis.Redis(unix_socket_path=str(socket))
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        client.close()
        yield f"unix://{socket}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)
