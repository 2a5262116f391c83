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
        self.told: dict[str, Any] = {}
        self.tell = Event()

    def json(self, method: str, path: str, *body: Any, **_: Any) -> Any:
        if method == "POST":
            self.beats += 1
            (self.told,) = body
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
        assert coordinator.told == {"gateway_url": "http://127.0.0.1:1", "clients": {}}
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


def test_a_gateway_says_where_clients_reach_it() -> None:
    coordinator = Coordinator()
    watch = Watch(
        coordinator,  # type: ignore[arg-type]
        "node-0",
        "http://10.0.0.1:8080",
        "http://gw:8080/function/lifl-gateway",
        changed=lambda _: None,
        dropped=lambda _: None,
        jobs=lambda _: None,
    )
    greenlets = watch.start()
    try:
        gevent.idle()
        assert coordinator.told["gateway_url"] == "http://10.0.0.1:8080"
        assert coordinator.told["public_url"] == "http://gw:8080/function/lifl-gateway"
    finally:
        gevent.killall(greenlets)


def test_another_job_of_a_deleted_ones_name_knows_nobody() -> None:
    told: list[str] = []
    watch = Watch(
        Coordinator(),  # type: ignore[arg-type]
        "node-0",
        "http://127.0.0.1:1",
        changed=lambda view: told.append(f"changed {view.job}"),
        dropped=lambda job: told.append(f"dropped {job}"),
        jobs=lambda _: None,
    )
    raw = {"job": "digits", "round": 4, "assignment": 4, "version": 3, "phase": "open"}
    watch.take([raw | {"auth_key": "aa"}])
    watch.met("digits", "c1")
    watch.take([raw | {"auth_key": "aa"}])
    assert told == ["changed digits"]
    fresh = raw | {"round": 1, "assignment": 1, "version": 0, "auth_key": "bb"}
    watch.take([fresh])
    assert told == ["changed digits", "dropped digits", "changed digits"]
    watch._new.clear()
    watch.met("digits", "c1")
    assert watch._new == {"digits": {"c1"}}  # it is told of again
    watch.take([])
    assert told[-1] == "dropped digits"
