"""What a gateway says before it knows anything."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from functions.gateway.watch import Watch
from lifl.errors import Unavailable


class Coordinator:
    """Answers heartbeats at once, and the watch when it is told to."""

    def __init__(self) -> None:
        self.beats = 0
        self.tell = Event()

    def json(self, method: str, path: str, *_: Any, **__: Any) -> Any:
        if method == "POST":
            self.beats += 1
            return {}
        self.tell.wait()
        self.tell.clear()
        return {"rev": 1, "jobs": [], "nodes": []}


def test_a_heartbeats_answer_says_nothing_of_the_jobs_there_are() -> None:
    coordinator = Coordinator()
    watch = Watch(
        coordinator,  # type: ignore[arg-type]
        "node-0",
        "http://127.0.0.1:1",
        changed=lambda _: None,
        dropped=lambda _: None,
        jobs=lambda _: None,
    )
    greenlets = watch.start()
    try:
        gevent.idle()
        assert coordinator.beats
        assert not watch.fresh
        with pytest.raises(Unavailable):
            watch.view("digits")
        coordinator.tell.set()
        gevent.idle()
        assert watch.fresh
        with pytest.raises(KeyError):
            watch.view("digits")
    finally:
        gevent.killall(greenlets)
