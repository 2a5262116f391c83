"""A broker that runs: Redis, ingress and dispatcher, in the group.

Why: the side itself, its reference and the hand-off all need the same one. It must not send.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.compare.api import Group
from bench.compare.crew import Crew
from bench.compare.vanilla import sidecar
from bench.compare.vanilla.redis import Redis
from bench.compare.vanilla.replica import AGGREGATOR
from bench.compare.wire import Wire

INGRESS = "bench.compare.vanilla.ingress"
DISPATCHER = "bench.compare.vanilla.dispatcher"
APP = "bench.compare.vanilla.adder:app"
"""The function that adds and does no more, for what is to be compared with published figures."""


class Broker:
    """``most`` are bytes that Redis may hold; the rest is what :mod:`.dispatcher` is given.

    When entered: ``port`` is the ingress's, ``redis`` Redis's address, ``ingress`` and
    ``dispatcher`` are wires, ``log`` is what functions and sidecars say.

    Raises
    ------
    ConfigError, RuntimeError
        when entered, if a part is missing or does not start; it says how to get it.
    """

    def __init__(
        self,
        group: Group,
        triggers: Sequence[str],
        most: int,
        *,
        concurrency: int = 0,
        scaler: Mapping[str, float] | None = None,
        app: str = AGGREGATOR,
        tell: bool = False,
    ) -> None:
        self._group, self._most = group, most
        self._given: dict[str, Any] = {
            "triggers": list(triggers),
            "concurrency": concurrency,
            "scaler": dict(scaler or {}),
            "app": app,
            "tell": tell,
        }
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            name, version, _ = sidecar.about()
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lifl-vanilla-")))
            self.log = home / "log"
            server = stack.enter_context(Redis(self._group, self._most))
            self.redis = server.address
            self.versions = {"redis": server.version(), name: version}
            self.ingress = self._crew(stack, INGRESS, redis=self.redis)
            self.port: int = self.ingress.hear()["port"]
            self.dispatcher = self._crew(
                stack,
                DISPATCHER,
                **self._given,
                redis=self.redis,
                ingress=self.port,
                log=str(self.log),
            )
            self.dispatcher.hear()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            with contextlib.suppress(RuntimeError, EOFError, TimeoutError):
                self.ask("zero")  # many replicas need longer to end than a crew is given
        self._stack.close()

    def ask(self, do: str) -> dict[str, Any]:
        """Give the dispatcher an order and return its answer."""
        self.dispatcher.tell(do=do)
        return self.dispatcher.hear()

    def _crew(self, stack: contextlib.ExitStack, module: str, **given: Any) -> Wire:
        with self._group.adopt():
            crew = Crew(module, 1, json.dumps(given).encode())
        return stack.enter_context(crew).wires[0]
