"""Starts, asks and ends processes that :mod:`bench.compare.host` forks.

Why: aggregators live in the group that is measured and clients outside of it, some in a peer's
virtual environment, but all are told and heard in the same way. It must not know what they do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.compare import wire

ROOT = Path(__file__).parents[2]
END_SECONDS = 10.0
SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""Memory of messages is kept rather than given back and faulted in anew for each: by default the
same rounds took 1.4 times the CPU."""


class Crew:
    """``number`` processes of one module that got the same bytes; use as a context manager.

    ``python`` and ``settings`` are their interpreter and what their environment has besides ours;
    what they print goes to ``log``, or where ours goes.
    """

    def __init__(
        self,
        module: str,
        number: int,
        given: bytes,
        *,
        python: Path | str = sys.executable,
        settings: Mapping[str, str] = SETTINGS,
        log: Path | None = None,
    ) -> None:
        source = os.memfd_create("given")
        ends = [wire.pair(f"{module.rpartition('.')[2]} {i}") for i in range(number)]
        self.wires = [mine for mine, _ in ends]
        theirs = [fd for _, fd in ends]
        try:
            with open(source, "wb", closefd=False) as file:
                file.write(given)
            with contextlib.ExitStack() as stack:
                output = stack.enter_context(log.open("ab")) if log else None
                self._host = subprocess.Popen(
                    [str(python), "-m", "bench.compare.host", module]
                    + [str(fd) for fd in (source, *theirs)],
                    pass_fds=(source, *theirs),
                    cwd=ROOT,
                    start_new_session=True,
                    env=os.environ | settings,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
        except BaseException:
            self._hang_up()
            raise
        finally:
            for fd in (source, *theirs):
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hang_up()
        try:
            self._host.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._host.pid, signal.SIGKILL)  # a session of its own: nobody else's
            self._host.wait()

    def _hang_up(self) -> None:
        for end in self.wires:
            end.close()
