"""Named points at which a test can have this process killed.

Why: "killed at any step, same result" is only a test if the kill really happens
at that step, without warning and without clean-up. Set ``LIFL_CRASH_AT`` to a
point's name and the process sends itself SIGKILL there. ``name@/some/file`` does
so only in the process that manages to remove that file, so that of many
aggregators with one environment exactly one dies, once. Unset, as always outside
tests, a point costs one comparison.

It must not be used for anything but tests.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

POINTS = ("after-take", "after-add", "before-seal", "after-seal", "before-send")


class CrashPoint:
    """At most one armed point.

    Raises
    ------
    ValueError
        if ``spec`` names no point of :data:`POINTS`.
    """

    def __init__(self, spec: str = "") -> None:
        name, _, token = spec.partition("@")
        if name and name not in POINTS:
            raise ValueError(f"use one of {', '.join(POINTS)}, perhaps with @FILE")
        self._name = name
        self._token = Path(token) if token else None

    def reach(self, name: str) -> None:
        """Die here if this is the armed point and the token, if any, was ours to remove."""
        if name != self._name:
            return
        if self._token is not None:
            try:
                self._token.unlink()
            except FileNotFoundError:
                return
        os.kill(os.getpid(), signal.SIGKILL)
