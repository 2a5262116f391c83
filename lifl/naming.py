"""Names of things outside the processes: header names, label keys, socket paths, ids.

Why: a name spelt in two places drifts. It must not do I/O.
"""

from __future__ import annotations

import re
from pathlib import Path

from lifl.errors import ConfigError

HEADER_CLIENT = "LIFL-Client"
HEADER_NUM_SAMPLES = "LIFL-Num-Samples"
HEADER_BASE_VERSION = "LIFL-Base-Version"
HEADER_UPDATE_TYPE = "LIFL-Update-Type"
HEADER_METRICS = "LIFL-Metrics"
HEADER_CLAIM = "LIFL-Claim"
HEADER_MODEL_VERSION = "LIFL-Model-Version"
HEADER_ROUND = "LIFL-Round"

MEDIA_SAFETENSORS = "application/vnd.safetensors"
MEDIA_PROBLEM = "application/problem+json"
PROBLEM_BASE = "https://lifl.dev/problems/"

LABEL_FUNCTION = "lifl.dev/function"
"""On a pod template: gateway, coordinator or aggregator. It alone makes a pod LIFL's."""
LABEL_NAMESPACE = "lifl.dev/functions"
"""On a namespace, "enabled": functions live there."""
LABEL_GATEWAY_OF = "lifl.dev/gateway-of"
"""On a gateway's Service that the controller made: the node it is for."""
ANNOTATION_SIDECAR = "lifl.dev/sidecar"
"""On an aggregator's pod template: "keep" leaves queue-proxy in."""
ANNOTATION_CONTAINER = "lifl.dev/container"
"""On a pod template: which container is the function, where that does not go without saying."""
ANNOTATION_JOB = "lifl.dev/job"
ANNOTATION_NAME = "lifl.dev/name"
ANNOTATION_REGISTRATION = "lifl.dev/registration"
"""Set on a pod when it is bound to its node: job, name in plans, and the proof of both."""
SCHEDULER = "lifl-scheduler"
AUTOSCALER_CLASS = "hierarchy.lifl.dev"

AGENT_SOCKET = "agent.sock"
ADMIN_SOCKET = "admin.sock"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_NODE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_NODE_LENGTH = 253
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}\Z")


def check_name(value: str, what: str) -> str:
    """Return ``value`` if it is a DNS label (job, aggregator), else raise ConfigError."""
    if not _NAME.match(value):
        raise ConfigError(
            f"{what} {value[:80]!r} is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', "
            "starting and ending with a letter or digit"
        )
    return value


def check_node(value: str, what: str) -> str:
    """Return ``value`` if it is a node's name, as on Kubernetes, else raise ConfigError.

    A DNS subdomain, such as ``ip-10-0-0-1.ec2.internal``.
    """
    if len(value) > _NODE_LENGTH or not _NODE.match(value):
        raise ConfigError(
            f"{what} {value[:80]!r} is not a node's name: use 1 to {_NODE_LENGTH} of a-z, 0-9, "
            "'-' and '.', each part between dots starting and ending with a letter or digit"
        )
    return value


def check_client(value: str) -> str:
    """Return ``value`` if it is a usable client name, else raise ConfigError."""
    if not _CLIENT.match(value):
        raise ConfigError(
            f"client name {value[:80]!r} is not usable: 1 to 128 of A-Z a-z 0-9 . _ : @ -, "
            "starting with a letter or digit"
        )
    return value


def node_dir(run_dir: Path, node: str) -> Path:
    """Return the directory of one local node's sockets."""
    return run_dir / node


def agent_socket(run_dir: Path, node: str) -> Path:
    """Return the path of a node agent's registration socket."""
    return node_dir(run_dir, node) / AGENT_SOCKET


def admin_socket(run_dir: Path, node: str) -> Path:
    """Return the path of a node agent's admin socket (owner only)."""
    return node_dir(run_dir, node) / ADMIN_SOCKET


def pin_dir(run_dir: Path, node: str) -> Path:
    """Return where a node's kernel maps and program are pinned, unless its agent is told else."""
    return node_dir(run_dir, node) / "bpf"
