"""Agents are found by their pods, at once although there are a thousand."""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from controller.agent_pods import AgentPods
from controller.clients.api import Cluster
from lifl.errors import Unavailable

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def pod(name: str, node: str, address: str, *, ready: bool = True, deleting: bool = False) -> Any:
    metadata = {"name": name, "namespace": "s", "resourceVersion": "2"}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": metadata,
        "spec": {"nodeName": node},
        "status": {"podIP": address, "conditions": conditions},
    }


class Server:
    """Lists some pods and announces what a test puts in; an API server's part in a cache."""

    def __init__(self, *pods: Any) -> None:
        self.pods = list(pods)
        self.events: queue.Queue[Any] = queue.Queue()

    def list(self, *_: Any, **__: Any) -> tuple[list[Any], str]:
        return self.pods, "1"

    def watch(self, *_: Any, **__: Any) -> Server:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(self.events.get, None)

    def stop(self) -> None:
        self.events.put(None)


@pytest.fixture
def agents() -> Iterator[tuple[AgentPods, Server, threading.Event]]:
    server = Server(
        pod("a-old", "a", "10.0.0.1", deleting=True),
        pod("a-new", "a", "10.0.0.2"),
        pod("b-unready", "b", "10.0.0.3", ready=False),
        pod("b", "b", "10.0.0.4"),
        pod("c", "c", ""),
    )
    changed = threading.Event()
    made = AgentPods(cast(Cluster, server), "s", lambda: (1, CONTEXT), on_change=changed.set)
    made.cache.start()
    assert made.cache.wait(5)
    yield made, server, changed
    made.cache.stop()


def test_the_agent_that_goes_on_is_a_nodes(agents):
    found, _, _ = agents
    assert [found.place(n) for n in "abcd"] == [("10.0.0.2", 1), ("10.0.0.4", 1), None, None]
    assert found.nodes() == {"a", "b", "c"}
    with pytest.raises(Unavailable, match="node c has no agent"):
        found.open("c", 1.0)


def test_a_new_address_is_seen_and_an_unchanged_list_is_the_same(agents):
    found, server, changed = agents
    before = found.cache.values()
    assert found.place("a") == ("10.0.0.2", 1)
    assert found.cache.values() is before
    for event, wanted in (
        (("MODIFIED", pod("a-new", "a", "10.0.0.9")), ("10.0.0.9", 1)),
        (("DELETED", pod("a-new", "a", "10.0.0.9")), ("10.0.0.1", 1)),
    ):
        changed.clear()
        server.events.put(event)
        assert changed.wait(5)
        assert found.place("a") == wanted
    assert found.cache.values() is not before and len(before) == 5
