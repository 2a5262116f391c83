"""What the controller is told by its environment.

Why: one frozen dataclass lists every setting. It must not read the environment
at import time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.plan.estimate import ALPHA
from controller.plan.placement import Policy
from lifl.settings import boolean, dataplane, read


def _positive(raw: str) -> float:
    value = float(raw)
    if not 0 < value < float("inf"):
        raise ValueError("use a number above 0")
    return value


def _share(raw: str) -> float:
    value = float(raw)
    if not 0 <= value < 1:
        raise ValueError("use a number from 0 on and below 1")
    return value


def _count(raw: str) -> int:
    value = int(raw)
    if value < 1:
        raise ValueError("use a whole number from 1 on")
    return value


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Which policies decide; each can be switched off alone (the paper's ablation)."""

    placement: Policy = Policy.BEST_FIT
    hierarchy: bool = True
    reuse: bool = True
    eager: bool = True
    estimate: bool = True
    """Whether measured load leaves less room on a node (EWMA)."""
    alpha: float = ALPHA
    """How much the past weighs in that average."""
    estimate_seconds: float = 1.0
    """How often it is sampled."""
    capacity: float = 20.0
    """Maximum service capacity MC of a node, in updates."""
    leaves: int | None = None
    """Most leaves of a job on a node; None: two for each of its processors."""
    keep_seconds: float = 30.0
    """How long an aggregator without a role, or a job's domain, is kept."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> PolicySettings:
        """Read the LIFL_* variables; raises ConfigError."""
        return cls(
            placement=read(env, "LIFL_PLACEMENT", Policy, Policy.BEST_FIT),
            hierarchy=read(env, "LIFL_HIERARCHY", boolean, True),
            reuse=read(env, "LIFL_REUSE", boolean, True),
            eager=read(env, "LIFL_EAGER", boolean, True),
            estimate=read(env, "LIFL_ESTIMATE", boolean, True),
            alpha=read(env, "LIFL_ALPHA", _share, ALPHA),
            estimate_seconds=read(env, "LIFL_ESTIMATE_SECONDS", _positive, 1.0),
            capacity=read(env, "LIFL_NODE_CAPACITY", _positive, 20.0),
            leaves=read(env, "LIFL_NODE_LEAVES", _count, None),
            keep_seconds=read(env, "LIFL_KEEP_SECONDS", _positive, 30.0),
        )


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """How the controller reaches the other parts."""

    home: Path
    run_dir: Path
    coordinator_url: str
    platform_secret: bytes
    dataplane: str
    policies: PolicySettings

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> ControllerSettings:
        """Read the LIFL_* variables; raises ConfigError."""
        return cls(
            home=read(env, "LIFL_HOME", Path),
            run_dir=read(env, "LIFL_RUN_DIR", Path),
            coordinator_url=read(env, "LIFL_COORDINATOR_URL", lambda v: v.rstrip("/")),
            platform_secret=read(env, "LIFL_PLATFORM_SECRET", bytes.fromhex, b""),
            dataplane=read(env, "LIFL_DATAPLANE", dataplane, "ebpf"),
            policies=PolicySettings.from_env(env),
        )
