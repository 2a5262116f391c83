"""What an aggregator reads from its environment.

It must not read the environment at import time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from functions.aggregator.draining import seconds
from functions.aggregator.team import processors
from lifl.naming import check_name
from lifl.settings import FunctionSettings, read


def _port(raw: str) -> int:
    value = int(raw)
    if not 0 <= value < 1 << 16:
        raise ValueError("use a port, or 0 for none")
    return value


@dataclass(frozen=True, slots=True)
class AggregatorSettings:
    """Settings of one aggregator process."""

    function: FunctionSettings
    domain: str
    """The job whose updates it sums. Empty: it serves the vanilla way, without an agent."""
    patience: float
    """Seconds without an agent after which the process ends."""
    max_body_bytes: int
    """The largest request body taken in the vanilla way."""
    max_partials: int
    """The most sums kept open between requests in the vanilla way."""
    threads: int
    """Threads of a sum that somebody waits for."""
    stats_port: int = 0
    """LIFL_STATS_PORT: where Knative's autoscaler asks for the load; 0: nobody asks."""
    drain_seconds: float = 0.0
    """LIFL_DRAIN_SECONDS: how long to serve on after SIGTERM."""
    pod_name: str = ""
    """SERVING_POD: the pod's name, for the autoscaler."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> AggregatorSettings:
        """Read the LIFL_* variables; raises ConfigError."""
        domain = read(env, "LIFL_DOMAIN", str, "")
        return cls(
            function=FunctionSettings.from_env(env),
            domain=check_name(domain, "LIFL_DOMAIN") if domain else "",
            patience=read(env, "LIFL_AGENT_PATIENCE", float, 60.0),
            max_body_bytes=read(env, "LIFL_MAX_BODY_BYTES", int, 1 << 30),
            max_partials=read(env, "LIFL_MAX_PARTIALS", int, 8),
            threads=read(env, "LIFL_SUM_THREADS", int, processors()),
            stats_port=read(env, "LIFL_STATS_PORT", _port, 0),
            drain_seconds=read(env, "LIFL_DRAIN_SECONDS", seconds, 0.0),
            pod_name=read(env, "SERVING_POD", str, "") or read(env, "HOSTNAME", str, ""),
        )
