"""What a gateway is told by its environment.

Why: one frozen dataclass lists every variable this function reads. It must not
read the environment at import time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from lifl.settings import FunctionSettings, base_url, read


def _positive(raw: str) -> float:
    value = float(raw)
    if not 0 < value < float("inf"):
        raise ValueError("use a number above 0")
    return value


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Settings of one gateway; all times in seconds."""

    function: FunctionSettings
    url: str
    """LIFL_GATEWAY_URL: where other gateways reach this one, and clients unless told otherwise."""
    public_url: str
    """LIFL_PUBLIC_URL: where clients reach this one, "" if by ``url`` or if others say it."""
    poll_cap: float
    """LIFL_POLL_CAP: the longest a poll is parked; below the platform's timeout."""
    header_seconds: float
    """LIFL_HEADER_SECONDS: how long a request's headers may take from their first byte."""
    body_idle: float
    """LIFL_BODY_IDLE: the longest silence in a body."""
    body_rate: float
    """LIFL_BODY_RATE: bytes/s an upload must keep up on average, counted after one idle time."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> GatewaySettings:
        """Read the variables; raises ConfigError."""
        return cls(
            function=FunctionSettings.from_env(env),
            url=read(env, "LIFL_GATEWAY_URL", lambda v: v.rstrip("/")),
            public_url=read(env, "LIFL_PUBLIC_URL", base_url, ""),
            poll_cap=read(env, "LIFL_POLL_CAP", _positive, 25.0),
            header_seconds=read(env, "LIFL_HEADER_SECONDS", _positive, 10.0),
            body_idle=read(env, "LIFL_BODY_IDLE", _positive, 30.0),
            body_rate=read(env, "LIFL_BODY_RATE", _positive, 16384.0),
        )
