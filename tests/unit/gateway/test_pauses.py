"""A pause lets in what waits on sockets, at once."""

from __future__ import annotations

import os

import gevent
from gevent.socket import wait_read

from functions.gateway.pauses import let_others_run


def test_who_waits_on_a_socket_goes_on_within_two_pauses() -> None:
    """``gevent.sleep(0)`` would take some fifty."""
    read, write = os.pipe()
    try:
        waiting = gevent.spawn(wait_read, read)
        let_others_run()
        os.write(write, b"news")
        let_others_run()
        let_others_run()
        assert waiting.ready()
    finally:
        os.close(read)
        os.close(write)


def test_who_is_ready_runs_first() -> None:
    done: list[int] = []
    others = [gevent.spawn(done.append, i) for i in range(3)]
    let_others_run()
    assert done == [0, 1, 2]
    gevent.joinall(others)
