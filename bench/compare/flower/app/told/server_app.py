"""Flower's FedAvg as it is; it only waits to be told to begin a round, and says when it ended.

Why: a round is timed from the clients' release to the new global model, so what comes before
must be over and what comes after must wait. Nothing that Flower does is replaced.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from bench.compare import mean, updates
from bench.compare.wire import Wire

app = ServerApp()
FOREVER = 1_000_000


class ToldFedAvg(FedAvg):  # type: ignore[misc]
    """FedAvg over as many clients as it is told for each round."""

    def __init__(self, wire: Wire, clients: int, elements: int) -> None:
        super().__init__(
            fraction_train=1e-9,  # how many is min_train_nodes
            fraction_evaluate=0.0,
            min_train_nodes=clients,
            min_available_nodes=clients,
        )
        self._wire = wire
        self._places = mean.places(elements)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait until a round is wanted; then do as FedAvg does."""
        self.min_train_nodes = self._wire.hear(None)["updates"]
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Do as FedAvg does, then say when that was and what the model is."""
        replies = list(replies)
        began = time.monotonic()
        arrays, metrics = super().aggregate_train(server_round, replies)
        ended = time.monotonic()
        if arrays is None:
            errors = [str(m.error.reason) for m in replies if m.has_error()]
            self._wire.tell(error=f"no model; errors: {errors}")
        else:
            values = np.concatenate([array.numpy().ravel() for array in arrays.values()])
            self._wire.tell(
                began=began,
                ended=ended,
                replies=sum(m.has_content() for m in replies),
                values=values[self._places].tolist(),
            )
        return arrays, metrics


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Play rounds until the other side hangs up."""
    config = context.run_config
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(config["told"]))
    wire = Wire(sock.detach(), "the comparison")
    document = Path(str(config["document"])).read_bytes()
    values = updates.floats(document)
    tensors = updates.tensors(document, values)
    arrays = ArrayRecord({name: Array(tensor) for name, tensor in tensors.items()})
    strategy = ToldFedAvg(wire, int(config["clients"]), len(values))
    wire.tell(up=True)
    try:
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=FOREVER)
    except EOFError:
        print("told: the other side has hung up")
