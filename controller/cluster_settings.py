"""What the controller of a cluster is told by its environment.

Why: one frozen dataclass lists every setting. It must not read the environment
at import time.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from controller.agent_pods import PORT as AGENT_PORT
from controller.platform import SEAT_SECONDS
from controller.settings import PolicySettings
from lifl.errors import ConfigError
from lifl.settings import read, secret


def _names(raw: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in raw.split(",") if name.strip())


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How one controller process of a cluster reaches the other parts."""

    namespace: str
    """LIFL_NAMESPACE: where controller and agents run."""
    identity: str
    """LIFL_IDENTITY_NAME, else the host's name: this process among candidates for leadership."""
    host: str
    """LIFL_HOST: the address that the webhook, metrics and probes are served at."""
    webhook_port: int
    """LIFL_WEBHOOK_PORT; 0: any that is free."""
    webhook_names: tuple[str, ...]
    """LIFL_WEBHOOK_NAMES: further DNS names of it, for one that is reached by no Service."""
    metrics_port: int
    """LIFL_METRICS_PORT: metrics and probes; 0: any that is free."""
    agent_port: int
    """LIFL_AGENT_PORT: where agents serve their admin operations."""
    coordinator_url: str
    """LIFL_COORDINATOR_URL."""
    platform_secret: bytes
    """LIFL_PLATFORM_SECRET or LIFL_PLATFORM_SECRET_FILE."""
    drain: float
    """LIFL_DRAIN_SECONDS: how long the webhook answers on after the end was asked for."""
    seat_seconds: float
    """LIFL_SEAT_SECONDS: how long a planned aggregator may wait for its pod."""
    gateway_url: str
    """LIFL_GATEWAY_URL: what people are told to send models to; "": left for them to know."""
    activator_url: str
    """LIFL_ACTIVATOR_URL: metrics of Knative's activator; "": found by its pods."""
    policies: PolicySettings

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> ClusterSettings:
        """Read the variables; raises ConfigError."""
        key = secret(env, "LIFL_PLATFORM_SECRET")
        if not key:
            raise ConfigError(
                "LIFL_PLATFORM_SECRET is not set: without it no function can be told from "
                "another; give the controller the key of the Secret lifl-platform"
            )
        host = read(env, "LIFL_IDENTITY_NAME", str, os.uname().nodename)
        return cls(
            namespace=read(env, "LIFL_NAMESPACE", str, "lifl-system"),
            identity=f"{host}_{secrets.token_hex(4)}",
            host=read(env, "LIFL_HOST", str, "0.0.0.0"),
            webhook_port=read(env, "LIFL_WEBHOOK_PORT", int, 9443),
            webhook_names=read(env, "LIFL_WEBHOOK_NAMES", _names, ()),
            metrics_port=read(env, "LIFL_METRICS_PORT", int, 9466),
            agent_port=read(env, "LIFL_AGENT_PORT", int, AGENT_PORT),
            coordinator_url=read(env, "LIFL_COORDINATOR_URL", lambda v: v.rstrip("/")),
            platform_secret=key,
            drain=read(env, "LIFL_DRAIN_SECONDS", float, 3.0),
            seat_seconds=read(env, "LIFL_SEAT_SECONDS", float, SEAT_SECONDS),
            gateway_url=read(env, "LIFL_GATEWAY_URL", lambda v: v.rstrip("/"), ""),
            activator_url=read(env, "LIFL_ACTIVATOR_URL", str, ""),
            policies=PolicySettings.from_env(env),
        )
