"""What the agent reads from its environment.

It must not touch anything but the mapping it is given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lifl import naming
from lifl.errors import ConfigError
from lifl.settings import dataplane, read, secret


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
    bpf_object: Path | None
    """The kernel program as clang made it; None: the one beside its source, else bcc compiles."""
    metrics_host: str
    metrics_port: int
    """0: neither metrics nor probes."""
    identity: str
    """How functions are told apart: by "uid", or by "pod" and a signed token."""
    platform_secret: bytes
    """Signs the tokens; only "pod" needs it."""
    admin_listen: tuple[str, int] | None
    """Where the admin operations are had over TLS, if they are."""
    tls_dir: Path
    """Where ca.crt, tls.crt and tls.key for that appear, maybe later, and are replaced."""
    grace: float
    """How long a live function that lost its connection may take to come back."""
    restart_grace: float
    """The same after the agent itself was restarted."""
    sweep: float
    """Period of the sweeper while an assignment is open."""
    sweep_age: float
    """How long an object may lie sealed before it is sent again."""
    pool_warm: int
    """How many bytes of all pools together are made ahead of their use; 0: none."""
    pool_idle: float
    """After how long without an assignment a pool gives its free pages back."""

    @property
    def state_file(self) -> Path:
        """Where the agent remembers what outlives it."""
        return naming.node_dir(self.run_dir, self.node) / "agent.json"

    @property
    def lock_file(self) -> Path:
        """Who has it locked serves the node."""
        return self.state_file.with_suffix(".lock")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> AgentSettings:
        """Read the LIFL_* variables; raises ConfigError."""
        node = naming.check_node(read(env, "LIFL_NODE", str, "node-0"), "LIFL_NODE")
        run_dir = read(env, "LIFL_RUN_DIR", Path, Path("/run/lifl"))
        identity = read(env, "LIFL_IDENTITY", _identity, "uid")
        admin_listen = read(env, "LIFL_ADMIN_LISTEN", address, None)
        return cls(
            node=node,
            run_dir=run_dir,
            agent_socket=read(env, "LIFL_AGENT_SOCKET", Path, naming.agent_socket(run_dir, node)),
            admin_socket=read(env, "LIFL_ADMIN_SOCKET", Path, naming.admin_socket(run_dir, node)),
            pin_dir=read(env, "LIFL_PIN_DIR", Path, naming.pin_dir(run_dir, node)),
            dataplane=read(env, "LIFL_DATAPLANE", dataplane, "ebpf"),
            bpf_object=read(env, "LIFL_BPF_OBJECT", Path, None),
            metrics_host=read(env, "LIFL_METRICS_HOST", str, "127.0.0.1"),
            metrics_port=read(env, "LIFL_METRICS_PORT", int, 0),
            identity=identity,
            platform_secret=_signing_secret(env) if identity == "pod" else b"",
            admin_listen=admin_listen,
            tls_dir=read(env, "LIFL_TLS_DIR", Path) if admin_listen else Path(),
            grace=read(env, "LIFL_GRACE", float, 2.0),
            restart_grace=read(env, "LIFL_RESTART_GRACE", float, 5.0),
            sweep=read(env, "LIFL_SWEEP", float, 0.05),
            sweep_age=read(env, "LIFL_SWEEP_AGE", float, 0.1),
            pool_warm=read(env, "LIFL_POOL_WARM_BYTES", int, 0),
            pool_idle=read(env, "LIFL_POOL_IDLE", float, 30.0),
        )


def _identity(raw: str) -> str:
    if raw not in {"uid", "pod"}:
        raise ValueError("use uid or pod")
    return raw


def _signing_secret(env: Mapping[str, str]) -> bytes:
    from lifl.auth import MIN_KEY_BYTES  # jwt is slow to load, and only pods need it

    key = secret(env, "LIFL_PLATFORM_SECRET")
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            "LIFL_IDENTITY=pod needs the platform's secret, by which tokens of functions are "
            "known: set LIFL_PLATFORM_SECRET or LIFL_PLATFORM_SECRET_FILE to at least "
            f"{2 * MIN_KEY_BYTES} hexadecimal digits"
        )
    return key


def address(raw: str) -> tuple[str, int]:
    """Convert "host:port", "[IPv6 address]:port" or, for all addresses, ":port"."""
    host, colon, port = raw.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("put an IPv6 address in brackets: [::]:9465")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError("use host:port")
    return host, int(port)
