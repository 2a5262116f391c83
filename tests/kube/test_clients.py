"""The API server's client and the caches, at a real API server that also goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.clients import api, errors
from controller.clients.api import Cluster, Object
from controller.clients.cache import Cache
from controller.clients.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    KNATIVE_SERVICE,
    NAMESPACE,
    NODE,
    POD,
    Kind,
)
from lifl.errors import ConfigError, Unavailable

from .apiserver import ApiServer

NAME = "clients"
PODS = {"containers": [{"name": "c", "image": "hollow"}]}


@pytest.fixture
def client(cluster: Path) -> Iterator[Cluster]:
    found = Cluster.connect(cluster)
    if found.find(NAMESPACE, NAME) is None:
        found.create(NAMESPACE, {"metadata": {"name": NAME}})
    yield found
    for item in found.list(CONFIG_MAP, NAME)[0]:
        found.delete(CONFIG_MAP, item["metadata"]["name"], NAME)
    for item in found.list(POD, NAME)[0]:
        found.delete(POD, item["metadata"]["name"], NAME, grace=0)
    found.close()


def config_map(name: str, **data: str) -> Object:
    return {"metadata": {"name": name, "labels": {"of": "test"}}, "data": data}


def eventually(probe: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def names(cache: Cache[str]) -> list[str]:
    return sorted(cache.values())


@contextmanager
def cache_of(client: Cluster, kind: Kind = CONFIG_MAP, **where: str) -> Iterator[Cache[str]]:
    found = Cache(client, kind, lambda raw: str(raw["metadata"]["name"]), **where)
    found.start()
    try:
        assert found.wait(10)
        yield found
    finally:
        found.stop()


def test_an_object_is_made_read_changed_and_deleted(client: Cluster) -> None:
    made = client.create(CONFIG_MAP, config_map("a", x="1"), NAME)
    with pytest.raises(errors.Exists, match="already exists"):
        client.create(CONFIG_MAP, config_map("a"), NAME)
    assert client.get(CONFIG_MAP, "a", NAME)["data"] == {"x": "1"}
    client.patch(CONFIG_MAP, "a", {"data": {"y": "2"}}, NAME)
    client.patch(CONFIG_MAP, "a", [{"op": "remove", "path": "/data/x"}], NAME)
    assert client.get(CONFIG_MAP, "a", NAME)["data"] == {"y": "2"}
    with pytest.raises(errors.Conflict):
        client.replace(CONFIG_MAP, {**made, "data": {}}, NAME)
    with pytest.raises(errors.Conflict):
        client.delete(CONFIG_MAP, "a", NAME, uid="another")
    client.delete(CONFIG_MAP, "a", NAME, uid=made["metadata"]["uid"])
    client.delete(CONFIG_MAP, "a", NAME)
    assert client.find(CONFIG_MAP, "a", NAME) is None
    with pytest.raises(errors.NotFound, match='"a" not found'):
        client.get(CONFIG_MAP, "a", NAME)


def test_server_side_apply_makes_and_owns_fields(client: Cluster) -> None:
    body = {"metadata": {"name": "s", "namespace": NAME}, "data": {"x": "1"}}
    client.patch(CONFIG_MAP, "s", body, NAME, server_side="one")
    made = client.patch(CONFIG_MAP, "s", {**body, "data": {"x": "2"}}, NAME, server_side="two")
    assert made["data"] == {"x": "2"}
    assert {m["manager"] for m in made["metadata"]["managedFields"]} >= {"two"}


def test_a_list_of_many_pages_is_whole(client: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE", 3)
    for i in range(10):
        client.create(CONFIG_MAP, config_map(f"m{i}"), NAME)
    found, version = client.list(CONFIG_MAP, NAME, labels="of=test")
    assert [o["metadata"]["name"] for o in found] == [f"m{i}" for i in range(10)]
    assert version
    assert client.list(CONFIG_MAP, NAME, labels="of=nothing")[0] == []


def test_a_binding_brings_node_and_annotations_in_one_step(client: Cluster) -> None:
    pod = client.create(POD, {"metadata": {"name": "p"}, "spec": PODS}, NAME)
    client.bind(NAME, "p", "n1", uid=pod["metadata"]["uid"], annotations={"lifl.dev/name": "s"})
    bound = client.get(POD, "p", NAME)
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["metadata"]["annotations"]["lifl.dev/name"] == "s"
    with pytest.raises(errors.Conflict, match="already assigned"):
        client.bind(NAME, "p", "n2")


def test_a_repeated_event_is_counted(client: Cluster) -> None:
    made = client.create(CONFIG_MAP, config_map("e"), NAME)["metadata"]
    about = {"apiVersion": "v1", "kind": "ConfigMap", "name": "e", "namespace": NAME}
    for _ in range(3):
        client.event(about | {"uid": made["uid"]}, "Tested", "it was tested", warning=True)
    (event,) = client.list(EVENT, NAME, fields=f"involvedObject.uid={made['uid']}")[0]
    assert (event["reason"], event["type"], event["count"]) == ("Tested", "Warning", 3)


def test_which_kinds_are_served(client: Cluster) -> None:
    assert client.serves(DEPLOYMENT)
    assert client.serves(NODE)
    assert not client.serves(Kind("nobody.lifl.dev/v1", "things", "Thing"))
    assert not client.serves(Kind(KNATIVE_SERVICE.api, "nothings", "Nothing"))
    assert client.version().startswith("v1.")


def test_who_may_not_is_told_so(apiserver: ApiServer) -> None:
    stranger = Cluster.connect(apiserver.kubeconfig("stranger", []))
    with pytest.raises(errors.Forbidden, match="stranger"):
        stranger.list(POD)
    stranger.event({"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u"}, "R", "m")
    stranger.close()


def test_no_cluster_and_an_unusable_file_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "config"
    broken.write_text("clusters: 3")
    with pytest.raises(ConfigError, match="no cluster to speak to"):
        Cluster.connect(broken)
    with pytest.raises(ConfigError, match="no cluster to speak to"):
        Cluster.connect(tmp_path / "missing")


def test_a_cache_follows(client: Cluster) -> None:
    client.create(CONFIG_MAP, config_map("before"), NAME)
    with cache_of(client, namespace=NAME, labels="of=test") as cache:
        assert names(cache) == ["before"]
        client.create(CONFIG_MAP, config_map("after"), NAME)
        eventually(lambda: names(cache) == ["after", "before"])
        client.delete(CONFIG_MAP, "before", NAME)
        eventually(lambda: names(cache) == ["after"])
        assert cache.get("after", NAME) == "after"
        assert cache.get("before", NAME) is None
        client.patch(CONFIG_MAP, "after", {"metadata": {"labels": {"of": "others"}}}, NAME)
        eventually(lambda: names(cache) == [])
        assert cache.silent_seconds() < 20


def test_a_parked_cache_ends_at_once(client: Cluster) -> None:
    before = threading.active_count()
    with cache_of(client, namespace=NAME):
        time.sleep(0.3)  # until it is parked in its watch
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    assert threading.active_count() == before


def test_what_cannot_be_read_is_left_out(client: Cluster) -> None:
    def parse(raw: Object) -> str:
        return str(raw["data"]["x"])

    client.create(CONFIG_MAP, config_map("good", x="1"), NAME)
    client.create(CONFIG_MAP, {"metadata": {"name": "bad", "labels": {"of": "test"}}}, NAME)
    cache = Cache(client, CONFIG_MAP, parse, namespace=NAME, labels="of=test")
    cache.start()
    try:
        assert cache.wait(10)
        assert cache.values() == ["1"]
    finally:
        cache.stop()


def test_a_cache_outlives_the_api_server(apiserver: ApiServer) -> None:
    client = Cluster.connect(apiserver.admin)
    if client.find(NAMESPACE, "away") is None:
        client.create(NAMESPACE, {"metadata": {"name": "away"}})
    client.create(CONFIG_MAP, config_map("kept"), "away")
    with cache_of(client, namespace="away", labels="of=test") as cache:
        apiserver.stop()
        try:
            with pytest.raises(Unavailable, match="does not answer"):
                client.get(CONFIG_MAP, "kept", "away")
            assert names(cache) == ["kept"]
        finally:
            apiserver.start()
        client.create(CONFIG_MAP, config_map("new"), "away")
        eventually(lambda: names(cache) == ["kept", "new"])
    client.close()
