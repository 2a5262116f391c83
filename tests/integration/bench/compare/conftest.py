"""What the sides' tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest


@pytest.fixture
def commands() -> Callable[[Iterable[int]], list[str]]:
    """Return what tells the command lines of the processes that are still there: a peer's go."""

    def read(pids: Iterable[int]) -> list[str]:
        found = []
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.append(Path(f"/proc/{pid}/cmdline").read_text())
        return found

    return read
