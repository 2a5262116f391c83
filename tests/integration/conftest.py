"""Fixtures of tests that need real processes or the kernel data plane."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf.agent.kernel_switch import KernelSwitch
from lifl.errors import ConfigError


@pytest.fixture
def kernel_switch() -> Callable[..., KernelSwitch]:
    """Open the kernel switch, or skip where it cannot be; with LIFL_REQUIRE_EBPF set, fail."""

    def open_switch(pin_dir: Path | None = None) -> KernelSwitch:
        try:
            return KernelSwitch.open(pin_dir)
        except ConfigError as e:
            if os.environ.get("LIFL_REQUIRE_EBPF"):
                pytest.fail(f"the eBPF data plane is required here: {e}")
            pytest.skip(f"no eBPF data plane here: {e}")

    return open_switch
