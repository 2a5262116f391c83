from __future__ import annotations

import os
import socket

import pytest

from lifl.dataplane import open_channel
from lifl.dataplane.channels import take_sockets
from lifl.errors import ConfigError


def test_an_unknown_data_plane_is_refused() -> None:
    with pytest.raises(ConfigError, match="use ebpf or socket"):
        open_channel("carrier-pigeon", 1, ())


def test_taking_sockets_is_all_or_nothing() -> None:
    a, b = socket.socketpair()
    fds = [a.detach(), os.open("/dev/null", os.O_RDONLY), b.detach()]
    with pytest.raises(OSError, match="non-socket"):
        take_sockets(fds)
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
