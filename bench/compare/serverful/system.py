"""The always-on side: a tree of gRPC aggregators that are there before a round and after it.

Why: it is what users of existing servers have, and must be as good as they could make it, or a
ratio over it says nothing; :mod:`bench.compare.serverful.reference` holds it to what the path is
known to do. Leaves and top are started once, in the group; a leaf has two clients.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from bench.compare import mean
from bench.compare.api import Group, Load, Reference, Round
from bench.compare.crew import Crew
from bench.compare.serverful import protocol, reference
from bench.compare.wire import PATIENCE, Wire

FAN_IN = 2
AGGREGATOR = "bench.compare.serverful.aggregator"
CLIENT = "bench.compare.serverful.client"


def goals(updates: int, fan_in: int = FAN_IN) -> list[int]:
    """Return how many updates each leaf of a round waits for; one leaf is the top itself."""
    full, rest = divmod(updates, fan_in)
    return [fan_in] * full + [rest] * (rest > 0)


class Serverful:
    """Always-on leaves of ``fan_in`` clients each, and one top; payload by value over gRPC."""

    stand_ins = (
        "aggregators of this project in place of a framework's: OpenBLAS, memory that is kept, "
        "malloc and HTTP/2 tuned, messages of 1 MB in raw bytes (flatters it)",
        "each message is added as it arrives, before it is known whether the update will be "
        "complete; servers that survive a client breaking off keep whole updates (flatters it)",
        "loopback in place of a network; no TLS, no checks of values, no checkpoint (flatters it)",
    )

    def __init__(
        self,
        load: Load,
        group: Group,
        document: bytes,
        *,
        name: str = "serverful",
        title: str = "Always-on server (gRPC tree)",
        fan_in: int = FAN_IN,
    ) -> None:
        self.name, self.title, self._fan_in = name, title, fan_in
        self._load, self._group, self._document = load, group, document
        header, floats = protocol.split(document)
        self._header, self._floats = header, np.frombuffer(floats, np.float32)
        self._round = 0
        self._stack = contextlib.ExitStack()

    @property
    def versions(self) -> dict[str, str]:
        """Return what gRPC this is."""
        return {"grpcio": version("grpcio")}

    def __enter__(self) -> Self:
        if importlib.util.find_spec("grpc") is None:
            raise RuntimeError("the always-on side needs gRPC: pip install 'lifl[compare]'")
        leaves = len(goals(self._load.clients, self._fan_in))
        with contextlib.ExitStack() as stack:
            with self._group.adopt():
                servers = Crew(
                    AGGREGATOR,
                    leaves + (leaves > 1),
                    protocol.describe(self._header, self._floats.nbytes),
                )
            stack.enter_context(servers)
            clients = stack.enter_context(Crew(CLIENT, self._load.clients + 1, self._document))
            self._servers, (*self._clients, self._reader) = servers.wires, clients.wires
            self._addresses = [f"127.0.0.1:{w.hear()['port']}" for w in servers.wires]
            for i, client in enumerate(self._clients):
                client.tell(do="connect", address=self._addresses[i // self._fan_in])
            for wire in self._clients:
                wire.hear()
            for address in self._addresses:
                _ask(self._reader, "connect", address=address)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def play(self, updates: int | None = None) -> Round:
        """Play a round; the plan is told before it starts, as connections are made before it."""
        number = self._load.clients if updates is None else updates
        looked_at = mean.places(len(self._floats))
        ranges = [[4 * i, 4] for i in looked_at]
        samples = [mean.samples(i) for i in range(number)]
        done, model = self._play(samples, do="model", ranges=ranges)
        found = np.frombuffer(bytes.fromhex(model["bytes"]), np.float32)
        mean.check(self.name, self._floats[looked_at], found)
        mean.check_samples(self.name, model["samples"], number)
        return done

    def play_true(self, documents: Sequence[bytes], samples: Sequence[int]) -> tuple[Round, bytes]:
        """Play a round in which client *i* sends ``documents[i]``, of ``samples[i]`` samples.

        All have the length of the system's document. Returns the mean as well, a safetensors
        document; its whole way out is in the round's time. Documents go by files: no payload goes
        over the wires.
        """
        with tempfile.TemporaryDirectory(prefix="lifl-serverful-") as directory:
            for i, document in enumerate(documents):
                path = Path(directory) / f"{i}"
                path.write_bytes(document)
                _ask(self._clients[i], "take", path=str(path))
            path = Path(directory) / "mean"
            asked = {"length": self._floats.nbytes, "path": str(path)}
            try:
                done, _ = self._play(samples, do="keep", **asked)
                return done, self._header + path.read_bytes()
            finally:
                path.write_bytes(self._document)
                for client in self._clients[: len(documents)]:
                    _ask(client, "take", path=str(path))

    def _play(self, samples: Sequence[int], **asked: Any) -> tuple[Round, dict[str, Any]]:
        """Play a round of so many clients; return it with what the reader, so asked, answered."""
        clients = self._clients[: len(samples)]
        self._round += 1
        top = self._open(len(clients))
        self._reader.tell(address=top, version=self._round, **asked)
        start = time.monotonic()
        for i, client in enumerate(clients):
            client.tell(
                do="send",
                address=self._addresses[i // self._fan_in],
                at=start + self._load.arrivals[i],
                round_=self._round,
                samples=float(samples[i]),
            )
        *sent, model = self._hear([*clients, self._reader])
        done = Round(
            wall=model["read"] - start,
            last_byte=max(s["last_byte"] for s in sent) - start,
            updates=len(clients),
            marks={"leaves_summed": max(s["summed"] for s in sent) - start},
        )
        return done, model

    def _open(self, updates: int) -> str:
        """Tell the aggregators of a round what to wait for; return the top's address."""
        plan = goals(updates, self._fan_in)
        top = self._addresses[-1] if len(plan) > 1 else self._addresses[0]
        for address, goal in zip(self._addresses, plan, strict=False):
            parent = "" if address == top else top
            _ask(
                self._reader, "open", address=address, round_=self._round, goal=goal, parent=parent
            )
        if len(plan) > 1:
            _ask(self._reader, "open", address=top, round_=self._round, goal=len(plan), parent="")
        return top

    def _hear(self, wires: Sequence[Wire]) -> list[dict[str, Any]]:
        """Return an answer from each; raise as soon as one of them, or a server, has failed."""
        answers: dict[Wire, dict[str, Any]] = {}
        by_fd = {w.fileno(): w for w in (*wires, *self._servers)}
        deadline = time.monotonic() + PATIENCE
        while len(answers) < len(wires):
            ready = wait(list(by_fd), max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{self.name}: round {self._round} took over {PATIENCE:.0f} s")
            for fd in ready:
                wire = by_fd[fd]  # type: ignore[index]
                try:
                    answers[wire] = wire.hear()
                except EOFError:
                    raise RuntimeError(f"{self.name}: {wire.who} has ended") from None
                del by_fd[fd]  # type: ignore[arg-type]
        return [answers[w] for w in wires]

    def references(self) -> list[Reference]:
        """Measure one hop of 44.8 MB over the same code, as the published figure was taken."""
        return [reference.measure(self._group)]


def _ask(wire: Wire, do: str, **what: Any) -> dict[str, Any]:
    wire.tell(do=do, **what)
    return wire.hear()
