"""Small things about containers' descriptions that several decisions need.

It must not do I/O.
"""

from __future__ import annotations

from typing import Any

from lifl.errors import PermanentError

Object = dict[str, Any]


class Refused(PermanentError):
    """A pod says something that cannot be met; the message is for who wrote its template."""


def find_env(container: Object, name: str) -> Object | None:
    """Return the entry of a variable that counts: the last one of its name."""
    found = [e for e in container.get("env") or [] if e["name"] == name]
    return found[-1] if found else None


def set_env(container: Object, entry: Object) -> None:
    """Put a variable into a container, in its old place if it has one."""
    env = container.get("env") or []
    at = next((i for i, e in enumerate(env) if e["name"] == entry["name"]), len(env))
    others = [e for e in env[at:] if e["name"] != entry["name"]]
    container["env"] = [*env[:at], entry, *others]


def set_env_if_unset(container: Object, name: str, value: str) -> None:
    """Put a variable into a container, last, unless it is there with a value."""
    entry = find_env(container, name) or {}
    if not entry.get("value") and not entry.get("valueFrom"):
        container["env"] = [e for e in container.get("env") or [] if e["name"] != name]
        container["env"].append({"name": name, "value": value})


def field_env(name: str, path: str) -> Object:
    """Return a variable that kubelet fills from the pod, as the API server writes it."""
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
