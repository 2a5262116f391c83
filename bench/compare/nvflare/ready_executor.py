"""An NVFlare executor that holds its update ready and hands it over when released.

Why: a client's training is not what is compared. It is the client's process of the
simulator that runs this, and NVFlare that moves the update from here.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from bench.compare import mean, updates
from bench.compare.wire import Wire, connect


class ReadyExecutor(Executor):  # type: ignore[misc]
    """Client ``site-i`` has the update of client ``i - 1``."""

    def __init__(self, told: str, document: str) -> None:
        super().__init__()
        self._told, self._document = told, document
        self._wire: Wire | None = None
        self._client = 0
        self._params: dict[str, Any] = {}

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Make the update when the run starts, and say so."""
        if event_type == EventType.START_RUN and self._wire is None:
            self._client = int(fl_ctx.get_identity_name().rpartition("-")[2]) - 1
            given = Path(self._document).read_bytes()
            values = updates.ramped(given) * np.float32(updates.factor(self._client))
            self._params = updates.tensors(given, values)
            self._wire = connect(self._told, "the comparison")
            self._wire.tell(who=self._client)

    def execute(self, task_name: str, shareable: Any, fl_ctx: Any, abort_signal: Any) -> Any:
        """Wait to be released, then return the update."""
        assert self._wire is not None
        model = FLModel(
            params_type=ParamsType.FULL,
            params=dict(self._params),
            meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: mean.samples(self._client)},
        )
        result = FLModelUtils.to_shareable(model)
        result.set_header(
            AppConstants.CURRENT_ROUND, shareable.get_header(AppConstants.CURRENT_ROUND)
        )
        self._wire.tell(ready=True)
        at = self._wire.hear(None)["at"]
        time.sleep(max(0.0, at - time.monotonic()))  # this is when it has its update
        self._wire.tell(handed=time.monotonic())
        return result
