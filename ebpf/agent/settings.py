"""What the agent reads from its environment.

It must not touch anything but the mapping it is given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lifl import naming
from lifl.settings import dataplane, read


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One node agent's settings; times in seconds."""

    node: str
    run_dir: Path
    agent_socket: Path
    admin_socket: Path
    pin_dir: Path
    """Where kernel maps and programs outlive the agent; in a bpffs, or one is mounted on it."""
    dataplane: str
    metrics_host: str
    metrics_port: int
    """0: no metrics endpoint."""
    grace: float
    """How long a live function that lost its connection may take to come back."""
    restart_grace: float
    """The same after the agent itself was restarted."""
    sweep: float
    """Period of the sweeper while an assignment is open."""
    sweep_age: float
    """How long an object may lie sealed before it is sent again."""
    pool_idle: float
    """After how long without an assignment a pool gives its free pages back."""

    @property
    def state_file(self) -> Path:
        """Where the agent remembers what outlives it."""
        return naming.node_dir(self.run_dir, self.node) / "agent.json"

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> AgentSettings:
        """Read the LIFL_* variables; raises ConfigError."""
        node = naming.check_name(read(env, "LIFL_NODE", str, "node-0"), "LIFL_NODE")
        run_dir = read(env, "LIFL_RUN_DIR", Path, Path("/run/lifl"))
        return cls(
            node=node,
            run_dir=run_dir,
            agent_socket=read(env, "LIFL_AGENT_SOCKET", Path, naming.agent_socket(run_dir, node)),
            admin_socket=read(env, "LIFL_ADMIN_SOCKET", Path, naming.admin_socket(run_dir, node)),
            pin_dir=read(env, "LIFL_PIN_DIR", Path, naming.node_dir(run_dir, node) / "bpf"),
            dataplane=read(env, "LIFL_DATAPLANE", dataplane, "ebpf"),
            metrics_host=read(env, "LIFL_METRICS_HOST", str, "127.0.0.1"),
            metrics_port=read(env, "LIFL_METRICS_PORT", int, 0),
            grace=read(env, "LIFL_GRACE", float, 2.0),
            restart_grace=read(env, "LIFL_RESTART_GRACE", float, 5.0),
            sweep=read(env, "LIFL_SWEEP", float, 0.05),
            sweep_age=read(env, "LIFL_SWEEP_AGE", float, 0.1),
            pool_idle=read(env, "LIFL_POOL_IDLE", float, 30.0),
        )
