"""NVFlare's FedAvg as it is; it only waits to be told to begin a round, and says when it ended.

Why: a round is timed from the clients' release to the new global model, so what comes before
must be over and what comes after must wait. Nothing that NVFlare does is replaced. Runs in the
simulator's process.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.app_common.workflows.fedavg import FedAvg

from bench.compare import mean, updates
from bench.compare.wire import Wire, connect

FOREVER = 1_000_000


class _Over(Exception):
    """The other side has hung up."""


class ToldFedAvg(FedAvg):  # type: ignore[misc]
    """FedAvg over as many clients as it is told for each round."""

    def __init__(self, told: str, document: str, clients: int) -> None:
        given = Path(document).read_bytes()
        values = updates.floats(given).copy()
        super().__init__(
            num_clients=clients,
            num_rounds=FOREVER,
            persistor_id="",
            model=updates.tensors(given, values),
        )
        self._places = mean.places(len(values))
        self._told = told
        self._wire: Wire | None = None
        self._began = 0.0

    def run(self) -> None:
        """Play rounds until the other side hangs up."""
        self._wire = connect(self._told, "the comparison")
        self._wire.tell(who="server")
        try:
            super().run()
        except _Over:
            self.info("the other side has hung up")

    def sample_clients(self, num_clients: int | None = None) -> Any:
        """Wait until a round is wanted; then do as FedAvg does."""
        assert self._wire is not None
        try:
            number = self._wire.hear(None)["updates"]
        except EOFError:
            raise _Over from None
        return super().sample_clients(number)

    def _get_aggregated_result(self) -> Any:
        self._began = time.monotonic()
        return super()._get_aggregated_result()

    def update_model(self, model: Any, aggr_result: Any) -> Any:
        """Do as FedAvg does, then say when that was and what the model is."""
        assert self._wire is not None
        model = super().update_model(model, aggr_result)
        ended = time.monotonic()
        values = np.concatenate([np.asarray(p).ravel() for p in model.params.values()])
        self._wire.tell(
            began=self._began,
            ended=ended,
            replies=self._received_count,
            values=[float(v) for v in values[self._places]],
        )
        return model
