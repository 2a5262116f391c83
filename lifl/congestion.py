"""No pacing between two processes of one machine.

Why: a system may have BBR as its congestion control, which lets timers pace every connection to
the bandwidth it has seen. Within a machine there is no link to share, only timers to wait for:
rounds of 8 x 45 MB took 10 to 15 % longer so than with Reno, which every Linux has and every user
may choose. To other machines the system's own choice stands. It must not know what is sent.
"""

from __future__ import annotations

import functools
import ipaddress
import socket

Option = tuple[int, int, int | bytes]


def options(host: str) -> list[Option]:
    """Return the socket options for a connection to ``host``, or for listening there.

    There are none unless it is a loopback address (or ``localhost``), nor where the system does
    not allow it. Set them before connecting: a connection that was paced once stays so.
    """
    return [*_unpaced()] if _loopback(host) else []


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # another name
        return False


@functools.cache
def _unpaced() -> tuple[Option, ...]:
    try:
        option = (socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        with socket.socket() as probe:
            probe.setsockopt(*option)
    except (AttributeError, OSError):  # no Linux, or not allowed
        return ()
    return (option,)
