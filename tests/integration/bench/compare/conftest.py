"""What the sides' tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import pytest


class Commands:
    """Reads processes' command lines."""

    def __call__(self, pids: Iterable[int]) -> list[str]:
        """Return those of the processes that are still there: a peer's come and go."""
        found = []
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.append(Path(f"/proc/{pid}/cmdline").read_text())
        return found


@pytest.fixture
def commands() -> Commands:
    return Commands()
