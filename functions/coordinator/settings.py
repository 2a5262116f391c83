"""What the coordinator is told by its environment.

Why: one frozen dataclass lists every variable this function reads. It must not
read the environment at import time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lifl.errors import ConfigError
from lifl.settings import FunctionSettings, boolean, password, read

DEFAULT_DOMAIN_UID = 200_000


def _positive(raw: str) -> float:
    value = float(raw)
    if not 0 < value < float("inf"):
        raise ValueError("use a number above 0")
    return value


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """Settings of the coordinator; all times in seconds."""

    function: FunctionSettings
    state_url: str
    """LIFL_STATE_URL: sqlite:///PATH or redis://HOST:PORT/DB."""
    state_password: str
    """LIFL_STATE_PASSWORD or LIFL_STATE_PASSWORD_FILE: what Redis asks for, unless in the URL."""
    checkpoints: Path
    """LIFL_CHECKPOINT_DIR: where model versions are kept."""
    keep_versions: int
    """LIFL_KEEP_VERSIONS: how many of a job's last versions stay on disk."""
    checkpoint_behind: bool
    """LIFL_CHECKPOINT_BEHIND: readers have a version before its checkpoint is on the disk."""
    max_model_bytes: int
    """LIFL_MAX_MODEL_BYTES: the longest initial model that is taken."""
    node_timeout: float
    """LIFL_NODE_TIMEOUT: a node is lost after so long without a heartbeat."""
    round_stall: float
    """LIFL_ROUND_STALL: a closed round is tried again after so long without a partial."""
    watch_cap: float
    """LIFL_WATCH_CAP: the longest a watch blocks."""
    domain_uid: int
    """LIFL_DOMAIN_UID: the first job's user id when root; without root, this process's own."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> CoordinatorSettings:
        """Read the variables; raises ConfigError."""
        state = read(env, "LIFL_HOME", Path, Path("/var/lib/lifl")) / "state"
        function = FunctionSettings.from_env(env)
        if function.auth and not function.platform_secret:
            raise ConfigError(
                "LIFL_PLATFORM_SECRET is not set: without it nobody could submit a job; "
                "set it (64 hex digits), or LIFL_AUTH=off on a machine of your own"
            )
        return cls(
            function=function,
            state_url=read(env, "LIFL_STATE_URL", str, f"sqlite://{state}/lifl.db"),
            state_password=password(env, "LIFL_STATE_PASSWORD"),
            checkpoints=read(env, "LIFL_CHECKPOINT_DIR", Path, state / "checkpoints"),
            keep_versions=read(env, "LIFL_KEEP_VERSIONS", lambda v: max(1, int(v)), 2),
            checkpoint_behind=read(env, "LIFL_CHECKPOINT_BEHIND", boolean, False),
            max_model_bytes=read(env, "LIFL_MAX_MODEL_BYTES", int, 16 << 30),
            node_timeout=read(env, "LIFL_NODE_TIMEOUT", _positive, 5.0),
            round_stall=read(env, "LIFL_ROUND_STALL", _positive, 60.0),
            watch_cap=read(env, "LIFL_WATCH_CAP", _positive, 25.0),
            domain_uid=read(env, "LIFL_DOMAIN_UID", int, DEFAULT_DOMAIN_UID),
        )
