"""Functions with many connections have all the descriptors that they may."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CONFIGURED = "import {0}.gunicorn_conf"
STARTED = "from ebpf.agent.__main__ import main; assert main() == 1  # LIFL_NODE is no name"
SCRIPT = """
import resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
exec(sys.argv[1])
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""


@pytest.mark.parametrize(
    "start",
    [
        CONFIGURED.format("functions.gateway"),
        CONFIGURED.format("functions.coordinator"),
        STARTED,
    ],
)
def test_the_soft_limit_is_raised_to_the_hard_one(start: str) -> None:
    command = [sys.executable, "-c", SCRIPT, start]
    env = os.environ | {"LIFL_NODE": "/"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=env)
    assert done.stdout == "True\n"
