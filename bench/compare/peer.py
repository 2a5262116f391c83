"""What all peers share: their virtual environments, a side's life and its check of the mean,
and rounds that are dispatched, then released.

Why: a peer first sends its model to clients, which no side's round includes, and samples clients
as it likes; so all must wait until as many as asked for hold an instruction. It must not know
any peer.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from bench.compare import mean
from bench.compare import updates as ready
from bench.compare.api import Group, Load, Reference
from bench.compare.crew import ROOT
from bench.compare.wire import Wire

THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
END_SECONDS = 15.0


class Venv:
    """A peer's virtual environment, ``.venv-NAME`` beside ours, made by ``scripts/peers``."""

    def __init__(self, name: str, package: str) -> None:
        self.name, self.package = name, package
        self.programs = ROOT / f".venv-{name}" / "bin"
        self.python = self.programs / "python"

    def why_missing(self) -> str | None:
        """Return why the peer cannot be played, or None if it can."""
        if self.version is None:
            return f"{self.name} is not installed; scripts/peers {self.name} installs it"
        return None

    @property
    def version(self) -> str | None:
        """Return the installed version, None if there is none."""
        found = self.programs.parent.glob(f"lib/python*/site-packages/{self.package}-*.dist-info")
        for path in found:
            return path.name.removeprefix(f"{self.package}-").removesuffix(".dist-info")
        return None

    def settings(self, **more: str) -> dict[str, str]:
        """Return the environment of the peer's programs that differs from ours."""
        path = f"{self.programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return THREADS | {"PATH": path, "PYTHONPATH": str(ROOT), **more}


class Peer(ABC):
    """An ``api.System`` of a virtual environment; a subclass starts it and plays its rounds."""

    name: ClassVar[str]
    venv: ClassVar[Venv]

    def __init__(self, load: Load, group: Group, document: bytes) -> None:
        self._load, self._group, self._document = load, group, document
        self._elements = len(ready.floats(document))
        self._places = mean.places(self._elements)
        self._stack = contextlib.ExitStack()

    @property
    def versions(self) -> dict[str, str]:
        """Return which release this is."""
        return {self.venv.package: self.venv.version or "not installed"}

    def __enter__(self) -> Self:
        if why := self.venv.why_missing():
            raise RuntimeError(why)
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @abstractmethod
    def _start(self, stack: contextlib.ExitStack) -> None:
        """Start all processes; ``stack`` ends them."""

    def references(self) -> list[Reference]:
        """Return nothing: no figure is published for a peer's path alone."""
        return []

    def _check(self, chosen: Sequence[int], model: Mapping[str, Any]) -> None:
        """Raise unless the mean is that of the updates of ``chosen`` clients."""
        if model.get("replies", len(chosen)) != len(chosen):
            raise RuntimeError(f"{self.name}: {model['replies']} of {len(chosen)} updates counted")
        weights = [(mean.samples(i), ready.factor(i)) for i in chosen]
        expected = ready.mean_at(self._document, self._places, weights)
        mean.check(self.name, expected, np.array(model["values"], np.float32))


def await_holders(clients: Sequence[Wire], server: Wire, number: int, timeout: float) -> list[int]:
    """Return which ``number`` clients hold an instruction, in the order in which they said so.

    Raises
    ------
    RuntimeError
        if the server says anything meanwhile, or one of them fails.
    TimeoutError
        if that takes over ``timeout`` seconds.
    """
    holding: list[int] = []
    waiting = {wire.fileno(): i for i, wire in enumerate(clients)}
    deadline = time.monotonic() + timeout
    while len(holding) < number:
        heard = wait([*waiting, server.fileno()], max(0.0, deadline - time.monotonic()))
        if not heard:
            raise TimeoutError(f"only {len(holding)} of {number} clients got the model")
        for fd in heard:
            if fd not in waiting:
                raise RuntimeError(f"a round ended before it began: {server.hear()}")
            clients[waiting[fd]].hear()  # type: ignore[index]
            holding.append(waiting.pop(fd))  # type: ignore[arg-type]
    return holding


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and make it."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(log: Path) -> str:
    """Return the end of a log, for an error."""
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace")[-2000:]
    return "(no log)"
