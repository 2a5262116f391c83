"""Whether a standing process serves yet.

Why: `lifl up` says "ready" only when it is true. One short attempt, no retry.
"""

from __future__ import annotations

import socket
from pathlib import Path

from lifl.client.http import HttpClient
from lifl.errors import Unavailable
from lifl.platform.services import Service

TIMEOUT_SECONDS = 1.0


def ready(service: Service) -> bool:
    """Say whether a service answers: its ready URL, or for an agent its admin socket."""
    if service.ready_url:
        return get_ok(service.ready_url)
    if service.kind == "agent":
        return listens(Path(service.env["LIFL_ADMIN_SOCKET"]))
    return True


def get_ok(url: str) -> bool:
    """Say whether a GET of a URL is answered with 200."""
    client = HttpClient(url, timeout=TIMEOUT_SECONDS)
    try:
        return client.request("GET", "").status == 200
    except Unavailable:
        return False
    finally:
        client.close()


def listens(path: Path) -> bool:
    """Say whether a SOCK_SEQPACKET UNIX socket accepts connections."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(TIMEOUT_SECONDS)
        try:
            s.connect(str(path))
        except OSError:
            return False
    return True
