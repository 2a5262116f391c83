"""The standing processes of a local platform: which, with what command and environment.

Why: agents, gateways, the coordinator and the controller are started the same
way; only here is written what each is told. It must not start anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lifl import naming
from lifl.platform.local import base_environment, gunicorn
from lifl.platform.paths import Paths

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class UpConfig:
    """What ``lifl up`` was asked for."""

    nodes: int
    dataplane: str
    gateway_ports: tuple[int, ...]
    coordinator_port: int
    auth: bool

    @property
    def node_names(self) -> list[str]:
        """Return the nodes' names."""
        return [f"node-{i}" for i in range(self.nodes)]

    def gateway_url(self, node: int) -> str:
        """Return the public URL of a node's gateway."""
        return f"http://{HOST}:{self.gateway_ports[node]}"

    @property
    def coordinator_url(self) -> str:
        """Return the coordinator's URL."""
        return f"http://{HOST}:{self.coordinator_port}"

    def to_json(self) -> dict[str, Any]:
        """Return what ``platform.json`` says about the platform as a whole."""
        return {
            "dataplane": self.dataplane,
            "nodes": self.node_names,
            "url": self.gateway_url(0),
            "gateways": {n: self.gateway_url(i) for i, n in enumerate(self.node_names)},
            "coordinator_url": self.coordinator_url,
            "auth": self.auth,
        }


@dataclass(frozen=True, slots=True)
class Service:
    """One standing process. ``ready_url`` answers 200 once it can serve; "" if it has none."""

    name: str
    kind: str
    argv: tuple[str, ...]
    env: dict[str, str]
    ready_url: str = ""


START_ORDER = ("agent", "coordinator", "gateway", "controller")


def services(config: UpConfig, paths: Paths) -> list[Service]:
    """Return every standing process in the order of start."""
    found = [*_per_node(config, paths), *_central(config, paths)]
    return sorted(found, key=lambda s: START_ORDER.index(s.kind))


def _per_node(config: UpConfig, paths: Paths) -> Iterator[Service]:
    for i, node in enumerate(config.node_names):
        env = _common(config, paths, node)
        yield Service(
            f"agent-{i}",
            "agent",
            (sys.executable, "-m", "ebpf.agent"),
            env | {"LIFL_NAME": f"agent-{i}"},
        )
        url = config.gateway_url(i)
        yield Service(
            f"gateway-{i}",
            "gateway",
            gunicorn("gateway"),
            env
            | {
                "LIFL_NAME": f"gateway-{i}",
                "LIFL_GATEWAY_URL": url,
                "PORT": str(config.gateway_ports[i]),
            },
            f"{url}/readyz",
        )


def _central(config: UpConfig, paths: Paths) -> Iterator[Service]:
    env = _common(config, paths, "node-0")
    yield Service(
        "coordinator",
        "coordinator",
        gunicorn("coordinator"),
        env | {"LIFL_NAME": "coordinator", "PORT": str(config.coordinator_port)},
        f"{config.coordinator_url}/readyz",
    )
    yield Service(
        "controller",
        "controller",
        (sys.executable, "-m", "controller"),
        env | {"LIFL_NAME": "controller"},
    )


def _common(config: UpConfig, paths: Paths, node: str) -> dict[str, str]:
    """Return what every standing process is told; LIFL_* settings of the caller are passed on."""
    caller = {k: v for k, v in os.environ.items() if k.startswith("LIFL_")}
    return (
        base_environment(os.environ)
        | caller
        | {
            "LIFL_HOME": str(paths.home),
            "LIFL_RUN_DIR": str(paths.run),
            "LIFL_NODE": node,
            "LIFL_AGENT_SOCKET": str(naming.agent_socket(paths.run, node)),
            "LIFL_ADMIN_SOCKET": str(naming.admin_socket(paths.run, node)),
            "LIFL_COORDINATOR_URL": config.coordinator_url,
            "LIFL_PLATFORM_SECRET": paths.secret(),
            "LIFL_AUTH": "on" if config.auth else "off",
            "LIFL_DATAPLANE": config.dataplane,
            "LIFL_HOST": HOST,
        }
    )
