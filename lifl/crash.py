"""Named points at which a test can have a process killed.

Why: "killed at any step, same result" is only a test if the kill really happens
at that step, without warning and without clean-up. LIFL_CRASH_DIR names a
directory; a process that reaches the point ``name`` and manages to remove the file
``name`` there, or ``name@INSTANCE`` with its own instance name, sends itself
SIGKILL. So a test arms any point at any time, and of many processes exactly one
dies, once. Unset, as always outside tests, a point costs one comparison.

It must not be used for anything but tests.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

_directory: Path | None = None
_instance = ""


def arm(env: Mapping[str, str] = os.environ) -> None:
    """Read LIFL_CRASH_DIR and this process's LIFL_NAME."""
    global _directory, _instance
    directory = env.get("LIFL_CRASH_DIR", "")
    _directory = Path(directory) if directory else None
    _instance = env.get("LIFL_NAME", "")


def point(name: str) -> None:
    """Die here if a file for this point was there, and ours to remove."""
    if _directory is None:
        return
    for file in (name, f"{name}@{_instance}"):
        try:
            (_directory / file).unlink()
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
