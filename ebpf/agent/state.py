"""What an agent leaves to the next one: a small JSON file, replaced in one step.

Why: functions and kernel routes outlive the agent; numbers, plans and which
memory is whose must as well. The file is not synced to disk: it is void after a
restart of the machine, since no process and no memory it speaks of is left.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FORMAT = 1


def load(path: Path) -> dict[str, Any] | None:
    """Return the last agent's state, or None if there is none that can be used."""
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    usable = isinstance(raw, dict) and raw.get("format") == FORMAT and raw.get("boot") == boot_id()
    return raw if usable else None


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the file; readable by its owner only."""
    fresh = path.with_name(f".{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as f:
        f.write(json.dumps({"format": FORMAT, "boot": boot_id(), **state}))  # dump() is far slower
    fresh.replace(path)


def boot_id() -> str:
    """Return the name of this run of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
