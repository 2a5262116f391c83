"""Flower's FedAvg alone: ready updates in one process's memory to a new model, nothing sent.

Why: it shows what of Flower's round is averaging and what is moving; it is no way to run a
federation. The process is Flower's own environment; the other half of this file runs there.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.compare import mean
from bench.compare import updates as ready
from bench.compare.api import Round
from bench.compare.crew import Crew
from bench.compare.flower.venv import VENV, settings
from bench.compare.peer import Peer
from bench.compare.wire import Wire

UP_SECONDS = 120.0


class FlowerInProcess(Peer):
    """One process in the group that holds all updates and calls FedAvg."""

    name = "flower-inprocess"
    venv = VENV
    title = "Flower's FedAvg in process"
    stand_ins = (
        "no server and no clients: the updates lie in the memory of the process that averages, "
        "nothing is sent and nothing received (flatters it beyond use as a round)",
    )

    def _start(self, stack: contextlib.ExitStack) -> None:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lifl-flower-")))
        with self._group.adopt():
            crew = Crew(
                "bench.compare.flower.inprocess",
                1,
                self._document,
                python=VENV.python,
                settings=settings(home),
                log=home / "fedavg.log",
            )
        (self._wire,) = stack.enter_context(crew).wires
        self._wire.tell(clients=self._load.clients)
        self._wire.hear(UP_SECONDS)

    def play(self, updates: int | None = None) -> Round:
        """Average the first ``updates`` updates; arrivals mean nothing here."""
        number = self._load.clients if updates is None else updates
        before = self._group.usage()
        self._wire.tell(updates=number)
        model = self._wire.hear()
        used = self._group.usage().since(before)
        self._check(range(number), model)
        return Round(model["wall"], 0.0, number, marks={"cpu": used.cpu})


def prepare(given: bytes) -> bytes:
    """Return the document."""
    return given


def serve(wire: Wire, document: bytes) -> None:
    """Hold updates as replies of clients, and average when told; in Flower's environment."""
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAvg
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # a message wants them
    replies = []
    first = ready.ramped(document)
    for i in range(wire.hear(None)["clients"]):
        tensors = ready.tensors(document, first * np.float32(ready.factor(i)))
        content: Any = RecordDict(
            {
                "arrays": ArrayRecord({name: Array(t) for name, t in tensors.items()}),
                "metrics": MetricRecord({"num-examples": mean.samples(i)}),
            }
        )
        replies.append(Message(content, dst_node_id=1, message_type="train"))
    strategy = FedAvg()
    places = mean.places(len(first))
    wire.tell(up=True)
    while True:
        number = wire.hear(None)["updates"]
        start = time.monotonic()
        arrays, _ = strategy.aggregate_train(1, replies[:number])
        wall = time.monotonic() - start
        values = np.concatenate([array.numpy().ravel() for array in arrays.values()])
        wire.tell(wall=wall, values=values[places].tolist())
