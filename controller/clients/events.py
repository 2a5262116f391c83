"""Events at objects, as `kubectl describe` shows them.

Why: who wonders why something was decided looks there; the same event again is one
event with a higher count, as the stock controllers do it. It must not do I/O.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

REMEMBERED = 4096
DEFAULT_NAMESPACE = "default"
"""Where events about objects without a namespace, such as nodes, are kept."""


class Recorder:
    """Remembers which events there are; for one thread at a time."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def note(
        self,
        about: Mapping[str, Any],
        reason: str,
        message: str,
        *,
        warning: bool,
        component: str,
    ) -> tuple[str, dict[str, Any]]:
        """Return "POST" and a new event, or "PATCH" and a known one that happened again."""
        now = datetime.datetime.now(datetime.UTC)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        key = "\0".join((str(about.get("uid")), str(about["name"]), reason, message))
        known = self._known.pop(key, None)
        if known is not None:
            self._known[key] = known
            known["count"] += 1
            known["lastTimestamp"] = stamp
            return "PATCH", known
        namespace = about.get("namespace") or DEFAULT_NAMESPACE
        digest = hashlib.sha256(f"{key}{now.timestamp()}".encode()).hexdigest()[:16]
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{about['name']}.{digest}", "namespace": namespace},
            "involvedObject": {k: v for k, v in about.items() if v},
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if warning else "Normal",
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        self._known[key] = body
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return "POST", body
