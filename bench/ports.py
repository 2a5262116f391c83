"""Ports that are free, for servers that have to be told one.

Why: sides of a comparison name their ports before they start, some of them in environments that
have none of this project's packages. It must import the standard library alone.
"""

from __future__ import annotations

import contextlib
import random
import socket


def closed_ports(nodes: int) -> int:
    """Return a port that is free for the first of ``nodes`` gateways, like all that follow from it.

    It is below those that the kernel gives to clients, so that none takes it meanwhile.
    """
    for _ in range(100):
        port = random.randrange(10_000, 32_000)
        with contextlib.ExitStack() as held:
            try:
                for other in (*range(port, port + nodes), port + 100):
                    held.enter_context(socket.create_server(("127.0.0.1", other)))
            except OSError:
                continue
            return port
    raise RuntimeError("no free ports")
