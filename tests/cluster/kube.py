"""kubectl for whole files and for what takes long, a thin client for single objects."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lifl.errors import LiflError

REPO = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def run(*command: str, given: str = "", seconds: float = 240.0, check: bool = True) -> str:
    """Run a program of this checkout and return what it printed; it must succeed."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=seconds, cwd=REPO, check=False
    )
    assert done.returncode == 0 or not check, f"{' '.join(command)}:\n{done.stderr[-3000:]}"
    return done.stdout


def kubectl(*arguments: str, given: str = "", seconds: float = 240.0, check: bool = True) -> str:
    """Run kubectl."""
    return run("kubectl", *arguments, given=given, seconds=seconds, check=check)


def query(*arguments: str) -> Any:
    """Return what kubectl prints as JSON."""
    return json.loads(kubectl(*arguments, "-o", "json"))


def until(ask: Callable[[], T | None], what: str, seconds: float = 60.0) -> T:
    """Return the first answer that is neither None nor False nor empty."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = found = ask()
        except (LiflError, KeyError, AssertionError) as e:
            last = e
        else:
            if found:
                return found
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}; last: {last!r}")


@contextlib.contextmanager
def capacity(updates: Mapping[str, float]) -> Iterator[None]:
    """Annotate nodes with how many updates they take, for the time of a block."""
    key = "lifl.dev/capacity"
    for node, number in updates.items():
        kubectl("annotate", "--overwrite", "node", node, f"{key}={number}")
    try:
        yield
    finally:
        kubectl("annotate", "node", *updates, f"{key}-")
