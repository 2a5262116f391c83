"""`python -m bench.compare.host MODULE FD WIRE...`: processes forked from one.

Why: a hundred processes that import gRPC and numpy each for themselves take minutes to start.
This one imports, prepares what all need, and forks one child a wire before any gRPC object or
thread exists. It runs in a peer's virtual environment as well, so it needs no package.

``MODULE`` offers ``prepare(given) -> object`` and ``serve(wire, prepared)``; ``given`` is what
descriptor ``FD`` holds. It ends when its children have; they end when their wires do.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Any

from bench.compare.wire import Wire


def main(arguments: Sequence[str]) -> None:
    module = importlib.import_module(arguments[0])
    source, *fds = map(int, arguments[1:])
    with mmap.mmap(source, 0, prot=mmap.PROT_READ) as given:
        prepared = module.prepare(bytes(given))
    os.close(source)
    gc.freeze()  # collections in the children must not write to pages that all share
    for fd in fds:
        if os.fork() == 0:
            for other in fds:
                if other != fd:
                    os.close(other)
            _serve(module, fd, prepared)
    for fd in fds:
        os.close(fd)
    for _ in fds:
        os.wait()


def _serve(module: Any, fd: int, prepared: object) -> None:
    wire = Wire(fd)
    try:
        with contextlib.suppress(EOFError):
            module.serve(wire, prepared)
    except BaseException as e:
        with contextlib.suppress(OSError):  # whoever listened may be gone
            wire.tell(error=f"{type(e).__name__}: {e}")
    finally:
        os._exit(0)  # never back into the host's loop


if __name__ == "__main__":
    main(sys.argv[1:])
