"""The local platform seen from outside: does it run, where, since when; end it.

Why: CLI, demo and tests need the same answers. It reads files and signals
processes only; what is inside the parts is asked by HTTP.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from lifl.errors import LiflError, PermanentError
from lifl.platform.local import CHECKOUT
from lifl.platform.paths import Paths, read_json
from lifl.platform.processes import ProcessId, stop
from lifl.platform.supervisor import GRACE_SECONDS, end_all, log_tail

SUPERVISOR_LOG = "supervisor"
POLL_SECONDS = 0.05


class NotRunning(PermanentError):
    """No local platform runs under this LIFL_HOME."""


class AlreadyRunning(PermanentError):
    """A local platform runs already under this LIFL_HOME."""


def find(paths: Paths) -> dict[str, Any] | None:
    """Return ``platform.json`` if its supervisor lives, else None."""
    state = read_json(paths.platform_file)
    if state is None or not ProcessId.from_json(state).alive():
        return None
    return dict(state)


def need(paths: Paths) -> dict[str, Any]:
    """Return ``platform.json``; raises NotRunning."""
    state = find(paths)
    if state is None:
        raise NotRunning(f"no platform runs with LIFL_HOME={paths.home}; start one with: lifl up")
    return state


def aggregators(paths: Paths) -> list[dict[str, Any]]:
    """Return the files of the aggregators that run."""
    found = (read_json(p) for p in sorted(paths.aggregators.glob("*.json")))
    return [raw for raw in found if raw is not None and ProcessId.from_json(raw).alive()]


def clear(paths: Paths) -> None:
    """End what a supervisor that was killed has left behind.

    Raises
    ------
    AlreadyRunning
        if the supervisor lives.
    """
    state = find(paths)
    if state is not None:
        raise AlreadyRunning(f"a platform runs already at {state['url']}; end it with: lifl down")
    end_all(paths)


def detach(paths: Paths, arguments: list[str], timeout: float) -> dict[str, Any]:
    """Start ``lifl up ARGUMENTS`` in a session of its own and wait until everything serves.

    Raises
    ------
    LiflError
        with the log's last lines, if it ends or does not serve within ``timeout`` seconds.
    """
    paths.create([])
    log_path = paths.log(SUPERVISOR_LOG)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lifl.cli.main", "up", *arguments],
            env=dict(os.environ) | {"LIFL_HOME": str(paths.home), "PYTHONPATH": str(CHECKOUT)},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout
    what = f"did not serve within {timeout:.0f} s"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            what = f"ended with exit code {process.returncode}"
            break
        state = find(paths)
        if state is not None and state["state"] == "running":
            process.returncode = 0  # it is nobody's child from here on
            return state
        if state is not None and (failing := _failing(state)):
            what = f"cannot start {', '.join(failing)}"
            break
        time.sleep(POLL_SECONDS)
    down(paths)
    process.wait()
    tail = "\n".join(log_tail(log_path))
    raise LiflError(f"the platform {what}; {log_path} says:\n{tail}")


def _failing(state: dict[str, Any]) -> list[str]:
    return [name for name, row in state["processes"].items() if row["state"] == "crash-loop"]


def down(paths: Paths) -> bool:
    """End the platform and everything it started; return whether there was anything to end."""
    state = read_json(paths.platform_file)
    if state is None:
        return False
    stop([ProcessId.from_json(state)], 4 * GRACE_SECONDS)
    end_all(paths)
    return True
