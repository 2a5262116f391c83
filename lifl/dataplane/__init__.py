"""How descriptors get from function to function.

Why: functions know one :class:`Channel` and the agent knows one :class:`Switch`;
whether the kernel or the agent routes is behind them. Nothing here may know what
an object holds or where a descriptor should go: the route decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from lifl.dataplane.api import Channel, Counters, Switch
from lifl.dataplane.channels import RelayChannel, SkMsgChannel
from lifl.errors import ConfigError

__all__ = ["Channel", "Counters", "Switch", "open_channel"]


def open_channel(kind: str, endpoint: int, fds: Sequence[int]) -> Channel:
    """Return the channel over ``fds``, which it owns from here on.

    ``kind`` is the :attr:`Switch.name` the agent told at registration, ``fds`` what
    :meth:`Switch.plug` returned, in that order.

    Raises
    ------
    ConfigError
        for an unknown kind.
    """
    if kind == "ebpf":
        return SkMsgChannel(endpoint, fds)
    if kind == "socket":
        return RelayChannel(endpoint, fds)
    raise ConfigError(f"unknown data plane {kind!r}: use ebpf or socket")
