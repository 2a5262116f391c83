"""One gateway for each node: names, Services from the template, and what is to be done."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.gateways import (
    Apply,
    Delete,
    Taken,
    decide,
    handovers,
    node_of,
    public_url,
    render,
    replicas,
    revision,
    service_name,
)
from controller.cluster.objects import Owner, PodView
from lifl.errors import ConfigError

from .scaled import Raw, deployed, deployment, pod

TEMPLATE: Raw = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Service",
    "metadata": {"name": "gateway", "labels": {"team": "fl"}, "annotations": {"note": "x"}},
    "spec": {
        "template": {
            "metadata": {"labels": {"lifl.dev/function": "gateway"}},
            "spec": {
                "nodeSelector": {"disk": "fast"},
                "containers": [
                    {
                        "image": "registry.example.com/lifl/gateway:0.1.0",
                        "env": [
                            {"name": "LIFL_AUTH", "value": "on"},
                            {"name": "LIFL_GATEWAY_URL", "value": "http://to-be-replaced"},
                        ],
                    }
                ],
            },
        }
    },
}
NODES = {"n1": "n1", "n2": "host-2"}


def there(body: Any, **status: Any) -> Raw:
    """The Service as the API server has it."""
    found = copy.deepcopy(dict(body))
    found["metadata"] |= {"uid": f"uid-{found['metadata']['name']}", "resourceVersion": "5"}
    return found | {"status": status}


def test_a_nodes_service() -> None:
    body = render(TEMPLATE, "n2", "host-2", "lifl")
    meta, pod = body["metadata"], body["spec"]["template"]["spec"]
    assert (meta["name"], meta["namespace"]) == ("gateway-n2", "lifl")
    assert meta["labels"] == {"team": "fl", "lifl.dev/gateway-of": "n2"}
    assert (meta["annotations"]["note"], node_of(body)) == ("x", "n2")
    assert pod["nodeSelector"] == {"disk": "fast", "kubernetes.io/hostname": "host-2"}
    assert pod["containers"][0]["env"] == [
        {"name": "LIFL_AUTH", "value": "on"},
    ]
    assert TEMPLATE["metadata"]["name"] == "gateway", "the template is not changed"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("spec"),
        lambda t: t.update(kind="Deployment"),
        lambda t: t["spec"]["template"].pop("metadata"),
        lambda t: t["spec"]["template"]["metadata"]["labels"].clear(),
        lambda t: t["spec"]["template"]["spec"].update(containers=[]),
        lambda t: t["spec"].update(template="gateway"),
    ],
)
def test_a_template_that_is_none_is_refused(change: Any) -> None:
    template = copy.deepcopy(TEMPLATE)
    change(template)
    with pytest.raises(ConfigError, match="template"):
        render(template, "n1", "n1", "lifl")


def test_services_are_made_changed_when_the_template_does_and_deleted_with_the_node() -> None:
    made = decide(TEMPLATE, ["n1", "n2", "unknown"], NODES, [], "lifl")
    assert [type(i) for i in made] == [Apply, Apply]
    services = [there(i.body) for i in made if isinstance(i, Apply)]
    assert decide(TEMPLATE, ["n1", "n2"], NODES, services, "lifl") == []
    assert decide(TEMPLATE, [], NODES, services, "lifl") == [], "agents come and go"

    newer = copy.deepcopy(TEMPLATE)
    newer["spec"]["template"]["spec"]["containers"][0]["image"] = "x:2"
    changed = decide(newer, [], NODES, services, "lifl")
    assert [i.body["metadata"]["name"] for i in changed if isinstance(i, Apply)] == [
        "gateway-n1",
        "gateway-n2",
    ]

    gone = decide(TEMPLATE, ["n1"], {"n1": "n1"}, services, "lifl")
    assert gone == [Delete("gateway-n2", "uid-gateway-n2")]
    assert decide(None, ["n1"], {"n1": "n1"}, services, "lifl") == gone
    assert decide(None, ["n1", "n2"], NODES, [], "lifl") == []


def test_a_service_of_that_name_that_is_not_ours_is_left_alone() -> None:
    theirs = there({"metadata": {"name": "gateway-n1", "namespace": "lifl"}, "spec": {}})
    assert decide(TEMPLATE, ["n1"], NODES, [theirs], "lifl") == [Taken("gateway-n1", "n1")]


def test_a_public_url_counts_when_its_route_is_ready() -> None:
    body, url = render(TEMPLATE, "n1", "n1", "lifl"), "http://gateway-n1.lifl.example.com"
    conditions = [{"type": "RoutesReady", "status": "True"}]
    assert public_url(there(body)) == ""
    assert public_url(there(body, url=url)) == ""
    assert public_url(there(body, url=f"{url}/", conditions=conditions)) == url
    assert public_url(there(body, conditions=conditions)) == ""


def gateway(name: str, of: str, **changes: Any) -> PodView:
    known: dict[str, Any] = {"node": "n1", "created": 100.0, "of": of, "function": "gateway"}
    selector = (("kubernetes.io/hostname", "host-1"),)
    return pod(name, **(known | {"node_selector": selector} | changes))


OLD, NEW = "gateway-n1-00001-deployment", "gateway-n1-00002-deployment"
HOSTS = {"n1": "host-1", "n2": "host-2"}


def test_a_gateway_of_another_version_may_have_to_make_way_for_one_that_waits() -> None:
    old = gateway("old", OLD)
    new = gateway("new", NEW, node="", created=200.0)
    assert handovers([old, new], HOSTS, 202.0) == [], "it may have a node in a moment"
    assert handovers([old, new], HOSTS, 204.0) == [(old, new)]
    assert handovers([old], HOSTS, 204.0) == []
    assert revision(old) < revision(new), "so it is the old one that goes"


@pytest.mark.parametrize(
    "changes",
    [
        {"ready": False},
        {"deleting": True},
        {"node": "n2"},
        {"function": "coordinator"},
        {"scheduler_name": "default-scheduler"},
        {"namespace": "other"},
        {"of": "gateway-n2-00001-deployment"},
        {"of": NEW},
    ],
)
def test_nothing_else_makes_way(changes: dict[str, Any]) -> None:
    old = gateway("old", **({"of": OLD} | changes))
    new = gateway("new", NEW, node="", created=200.0)
    assert handovers([old, new], HOSTS, 400.0) == []


def test_gateways_make_way_one_after_the_other() -> None:
    def version(number: int, **changes: Any) -> PodView:
        owner = Owner("ReplicaSet", f"lifl-gateway-{number}", f"uid-{number}")
        name = changes.pop("name")
        return gateway(name, "", owner=owner, node_selector=(), **changes)

    old = [version(1, name=f"old{k}", node=f"n{k}") for k in (1, 2)]
    surge = version(2, name="new1", node="", created=200.0)
    assert handovers([*old, surge], HOSTS, 400.0) == [(old[0], surge), (old[1], surge)]
    coming = version(2, name="new1", node="n1", created=200.0, ready=False)
    waiting = version(2, name="new2", node="", created=201.0)
    assert handovers([old[1], coming, waiting], HOSTS, 400.0) == []
    there = version(2, name="new1", node="n1", created=200.0)
    assert handovers([old[1], there, waiting], HOSTS, 400.0) == [(old[1], waiting)]


def test_a_deployments_version_is_noted_at_its_replica_set() -> None:
    known = gateway("p", "lifl-gateway")
    notes = {"deployment.kubernetes.io/revision": "12"}
    assert revision(known, {"metadata": {"annotations": notes}}) == 12
    assert revision(known, {"metadata": {}}) == revision(known, None) == revision(known) == 0


LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
NODE = st.lists(LABEL, min_size=1, max_size=8).map(".".join)


@given(NODE, NODE)
def test_every_node_has_a_name_of_its_own_that_knative_takes(one: str, two: str) -> None:
    for node in (one, two):
        name = service_name(node)
        assert len(name) <= 46
        assert name.strip("-") == name and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        body = render(TEMPLATE, node, node, "lifl")
        assert len(body["metadata"]["labels"]["lifl.dev/gateway-of"]) <= 63
        assert node_of(body) == node
    assert (service_name(one) == service_name(two)) is (one == two)


@pytest.mark.parametrize(
    ("labels", "agents", "count"),
    [
        ({}, 3, 3),
        ({}, 0, 1),
        ({"com.openfaas.scale.max": "2"}, 3, 2),
        ({"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "5"}, 1, 2),
    ],
)
def test_openfaas_has_a_pod_for_each_node(labels: dict[str, str], agents: int, count: int) -> None:
    faas = {"faas_function": "lifl-gateway"}
    raw = deployment("lifl-gateway", function="gateway", labels=faas, template=faas | labels)
    assert replicas(deployed(raw), agents) == count
    assert replicas(deployed(deployment("gateway", function="gateway")), agents) is None
    assert replicas(deployed(deployment("aggregator", template=faas)), agents) is None
