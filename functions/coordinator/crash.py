"""Sudden death at a named point, for tests only.

Why: "survives SIGKILL at any point" is shown by dying exactly there, not near
there. ``LIFL_CRASH_AT=point@/path/of/marker`` makes the process kill itself the
first time it reaches the point; the marker file keeps the successor alive.
Without the variable :func:`point` costs one comparison. It must not be used to
steer behaviour.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_armed = ""
_marker = Path()


def arm(setting: str) -> None:
    """Set the point to die at; an empty setting disarms."""
    global _armed, _marker
    name, _, marker = setting.partition("@")
    _armed, _marker = name, Path(marker)


def point(name: str) -> None:
    """Die here by SIGKILL if this is the armed point and nobody has died here before."""
    if name != _armed:
        return
    try:
        _marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
