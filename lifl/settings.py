"""Settings from the environment, read once at a program's start.

Why: every program states what it reads in one frozen dataclass, and a wrong
value is refused with its name, not met later as a strange error. It must not
read the environment at import time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from lifl.errors import ConfigError

T = TypeVar("T")
_MISSING = object()


def read(
    env: Mapping[str, str],
    name: str,
    convert: Callable[[str], T],
    default: T | object = _MISSING,
) -> T:
    """Return ``convert(env[name])``, or ``default`` when the variable is unset or empty.

    Raises
    ------
    ConfigError
        naming the variable, when it is required and missing or does not convert.
    """
    raw = env.get(name, "")
    if raw == "":
        if default is _MISSING:
            raise ConfigError(f"the environment variable {name} is needed and not set")
        return default  # type: ignore[return-value]
    try:
        return convert(raw)
    except (ValueError, KeyError) as e:
        raise ConfigError(f"{name}={raw[:120]!r} is not usable: {e}") from e


def boolean(raw: str) -> bool:
    """Convert on/off, true/false, 1/0, yes/no."""
    word = raw.strip().lower()
    if word in {"1", "on", "true", "yes"}:
        return True
    if word in {"0", "off", "false", "no"}:
        return False
    raise ValueError("use on or off")


def dataplane(raw: str) -> str:
    """Convert the name of a data plane."""
    if raw not in {"ebpf", "socket"}:
        raise ValueError("use ebpf or socket")
    return raw


def base_url(raw: str) -> str:
    """Convert a URL that paths are appended to; it may have a path of its own."""
    url = raw.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("use a URL such as http://HOST:PORT or http://HOST:PORT/PATH")
    return url


def secret(env: Mapping[str, str], name: str) -> bytes:
    """Return the hex key in ``name``, or in the file that ``name_FILE`` names; empty if neither.

    Platforms such as OpenFaaS hand secrets over as files. Raises ConfigError, which never
    quotes the key.
    """
    try:
        return bytes.fromhex(password(env, name))
    except ValueError:
        raise ConfigError(f"{name} is not a hexadecimal key") from None


def password(env: Mapping[str, str], name: str) -> str:
    """Return the text in ``name``, or in the file that ``name_FILE`` names, without its newline.

    Empty if neither is set. Raises ConfigError, which never quotes it.
    """
    raw, path = env.get(name, ""), env.get(f"{name}_FILE", "")
    if raw and path:
        raise ConfigError(f"set {name} or {name}_FILE, not both")
    try:
        return raw or (Path(path).read_text().rstrip("\r\n") if path else "")
    except OSError as e:
        raise ConfigError(f"{name}_FILE={path!r} cannot be read: {e.strerror}") from e
    except UnicodeDecodeError:
        raise ConfigError(f"{name}_FILE={path!r} is not text") from None


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """What every function (gateway, aggregator, coordinator) is told."""

    node: str
    """The node this process runs on."""
    name: str
    """This instance's name, unique on its node."""
    agent_socket: Path
    """Where to register with the node's agent."""
    registration: str
    """What to show the agent where functions are known by their pod; a secret of this pod's."""
    coordinator_url: str
    """Base URL of the coordinator, no trailing slash."""
    platform_secret: bytes
    """Key of the tokens that parts of the platform show each other."""
    auth: bool
    """Whether clients must show a token. Off is for a local platform only."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> FunctionSettings:
        """Read the LIFL_* variables; raises ConfigError."""
        return cls(
            node=read(env, "LIFL_NODE", str, "node-0"),
            name=read(env, "LIFL_NAME", str, "function"),
            agent_socket=read(env, "LIFL_AGENT_SOCKET", Path, Path("/run/lifl/agent.sock")),
            registration=read(env, "LIFL_REGISTRATION", str.strip, ""),
            coordinator_url=read(
                env, "LIFL_COORDINATOR_URL", lambda v: v.rstrip("/"), "http://127.0.0.1:8090"
            ),
            platform_secret=secret(env, "LIFL_PLATFORM_SECRET"),
            auth=read(env, "LIFL_AUTH", boolean, True),
        )
