"""Functions with many connections have all the descriptors that they may."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import importlib, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
importlib.import_module(sys.argv[1])
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""


@pytest.mark.parametrize(
    "module", ["functions.gateway.gunicorn_conf", "functions.coordinator.gunicorn_conf"]
)
def test_the_soft_limit_is_raised_to_the_hard_one(module: str) -> None:
    command = [sys.executable, "-c", SCRIPT, module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\n"
