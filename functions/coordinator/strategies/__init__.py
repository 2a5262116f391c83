"""Server optimizers: what the coordinator makes of the clients' mean.

One file per optimizer; :func:`make` finds one by the name a job file uses. They
must not know rounds, pools or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from functions.coordinator.strategies.base import (
    BLOCK,
    Diverged,
    Floats,
    Part,
    Strategy,
    advance,
    apply,
    initial_state,
    mean_into,
)
from functions.coordinator.strategies.fedadagrad import FedAdagrad
from functions.coordinator.strategies.fedadam import FedAdam
from functions.coordinator.strategies.fedavg import FedAvg
from functions.coordinator.strategies.fedavgm import FedAvgM
from functions.coordinator.strategies.fedyogi import FedYogi
from lifl.errors import ConfigError

__all__ = [
    "BLOCK",
    "STRATEGIES",
    "Diverged",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "Floats",
    "Part",
    "Strategy",
    "advance",
    "apply",
    "initial_state",
    "make",
    "mean_into",
]

STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
}


def make(name: str, parameters: Mapping[str, float]) -> Strategy:
    """Return the strategy ``name`` with its hyperparameters.

    Raises
    ------
    ConfigError
        if there is no such strategy or it has no such hyperparameter.
    """
    try:
        factory = STRATEGIES[name]
    except KeyError:
        raise ConfigError(f"no strategy {name!r}; there are {', '.join(STRATEGIES)}") from None
    try:
        return factory(**parameters)
    except TypeError as e:
        raise ConfigError(f"strategy {name!r} does not take {dict(parameters)}: {e}") from None
