"""The controller may do what its code does, and no more; its webhook sees the pods it is for.

What the code asks of the API server is read off its calls of
:class:`controller.clients.api.Cluster`
and :class:`controller.clients.cache.Cache`, whose first words are kinds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller import volumes
from controller.clients import kinds
from controller.clients.kinds import Kind
from controller.cluster_settings import ClusterSettings
from controller.gateways import TEMPLATE
from controller.leadership import NAME as LEASE_NAME
from lifl import naming

Object = dict[str, Any]
Objects = dict[str, list[Object]]
Right = tuple[str, str, str]
"""API group, resource (with subresource), verb."""

VERBS = {
    "get": ["get"],
    "find": ["get"],
    "list": ["list"],
    "create": ["create"],
    "replace": ["update"],
    "patch": ["patch"],
    "delete": ["delete"],
}
KINDS: dict[str, Kind] = {
    name: kind
    for module in (kinds, volumes)
    for name, kind in vars(module).items()
    if isinstance(kind, Kind)
}
BY_KOPF = {("lifl.dev", "federatedjobs", verb) for verb in ("get", "list", "watch", "patch")} | {
    ("apiextensions.k8s.io", "customresourcedefinitions", verb) for verb in ("list", "watch")
}
"""What the framework asks for: objects, their finalizer and notes, and whether they are defined."""
BY_APPLYING = {("serving.knative.dev", "services", "create")}
"""Server-side apply of what is not there yet."""


def group(kind: Kind) -> str:
    return kind.api.rpartition("/")[0]


def asked(tree: ast.AST) -> Iterator[Right]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, names = node.func, [a.id for a in node.args if isinstance(a, ast.Name)]
        kind = next((KINDS[n] for n in names if n in KINDS), None)
        if isinstance(called, ast.Name) and called.id == "Cache" and kind is not None:
            yield from ((group(kind), kind.plural, verb) for verb in ("list", "watch"))
        if isinstance(called, ast.Attribute):
            if called.attr == "bind":
                yield "", "pods/binding", "create"
            elif called.attr in VERBS and kind is not None:
                words = {k.arg: k.value for k in node.keywords}
                sub = words.get("subresource")
                name = f"/{sub.value}" if isinstance(sub, ast.Constant) else ""
                yield from ((group(kind), kind.plural + name, v) for v in VERBS[called.attr])


@pytest.fixture(scope="module")
def needed(repo: Path) -> set[Right]:
    found: set[Right] = set()
    for path in (repo / "controller").rglob("*.py"):
        found |= set(asked(ast.parse(path.read_text())))
    for kind in (kinds.POD_AUTOSCALER, kinds.SERVERLESS_SERVICE):  # by a loop in knative.py
        found |= {(group(kind), kind.plural, verb) for verb in ("list", "watch")}
    assert len(found) > 20, "the calls were not found"
    return found | BY_KOPF | BY_APPLYING


def rules(objects: Objects, kind: str, name: str) -> list[Object]:
    (found,) = (
        o for o in objects["deploy/base"] if (o["kind"], o["metadata"]["name"]) == (kind, name)
    )
    return list(found["rules"])


def rights(found: list[Object]) -> set[Right]:
    return {
        (g, resource, verb)
        for rule in found
        for g in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture(scope="module")
def everywhere(objects: Objects) -> list[Object]:
    return rules(objects, "ClusterRole", "lifl-controller")


@pytest.fixture(scope="module")
def functions(objects: Objects) -> list[Object]:
    return rules(objects, "ClusterRole", "lifl-functions")


@pytest.fixture(scope="module")
def own(objects: Objects) -> list[Object]:
    return rules(objects, "Role", "controller")


def test_it_may_do_what_it_does(
    needed: set[Right], everywhere: list[Object], functions: list[Object], own: list[Object]
) -> None:
    granted = rights(everywhere) | rights(functions) | rights(own)
    assert needed - granted == set()


def test_it_may_do_no_more(
    needed: set[Right], everywhere: list[Object], functions: list[Object], own: list[Object]
) -> None:
    for granted in (everywhere, functions, own):
        # who may list may as well read one
        used = needed | {(g, r, "get") for g, r, verb in needed if verb == "list"}
        assert rights(granted) - used == set()


def test_it_changes_nothing_outside_of_its_namespaces(everywhere: list[Object]) -> None:
    changing = [r for r in everywhere if set(r["verbs"]) - {"get", "list", "watch"}]
    assert [r["resources"] for r in changing] == [["mutatingwebhookconfigurations"]]
    assert changing[0]["resourceNames"] == ["lifl"]
    for rule in everywhere:
        assert "secrets" not in rule["resources"]
        if "configmaps" in rule["resources"]:
            assert rule["resourceNames"] == [TEMPLATE]


def test_its_own_secrets_and_lease_are_named(own: list[Object], repo: Path) -> None:
    for rule in own:
        if rule["resources"] in (["secrets"], ["leases"]) and rule["verbs"] != ["create"]:
            assert rule["resourceNames"]
    (leases,) = (r for r in own if r["resources"] == ["leases"] and r["verbs"] != ["create"])
    assert leases["resourceNames"] == [LEASE_NAME]
    (secrets,) = (r for r in own if r["resources"] == ["secrets"] and r["verbs"] != ["create"])
    text = "".join(p.read_text() for p in (repo / "controller").glob("cert*.py"))
    text += (repo / "controller/cluster_certs.py").read_text()
    assert all(f'"{name}"' in text for name in secrets["resourceNames"])


def test_the_webhook_sees_functions_pods_and_no_others(objects: Objects) -> None:
    (found,) = (o for o in objects["deploy/base"] if o["kind"] == "MutatingWebhookConfiguration")
    assert found["metadata"]["name"] == "lifl"
    (webhook,) = found["webhooks"]
    assert webhook["namespaceSelector"] == {"matchLabels": {naming.LABEL_NAMESPACE: "enabled"}}
    assert webhook["objectSelector"] == {
        "matchExpressions": [{"key": naming.LABEL_FUNCTION, "operator": "Exists"}]
    }
    assert webhook["rules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }
    ]
    assert webhook["failurePolicy"] == "Fail"
    assert webhook["timeoutSeconds"] <= 5
    assert "caBundle" not in webhook["clientConfig"], "the controller puts it in"
    service = webhook["clientConfig"]["service"]
    (there,) = (
        o
        for o in objects["deploy/base"]
        if (o["kind"], o["metadata"]["name"]) == ("Service", service["name"])
    )
    assert there["metadata"]["namespace"] == service["namespace"]
    (port,) = there["spec"]["ports"]
    assert port["port"] == service["port"]


@pytest.fixture
def deployment(objects: Objects) -> Object:
    (found,) = (o for o in objects["deploy/base"] if o["kind"] == "Deployment")
    return found


def test_the_process_has_no_privileges(deployment: Object) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    context = dict(container["securityContext"])
    assert context.pop("runAsUser") == context.pop("runAsGroup") >= 10000
    assert context == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_ports_and_probes_are_where_it_serves(deployment: Object) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    fields = {
        e["name"]: e["valueFrom"]["fieldRef"]
        for e in container["env"]
        if "fieldRef" in e.get("valueFrom", {})
    }
    assert fields["LIFL_NAMESPACE"]["fieldPath"] == "metadata.namespace"
    assert fields["LIFL_IDENTITY_NAME"]["fieldPath"] == "metadata.name"
    env = {e["name"]: e.get("value", "00" * 32) for e in container["env"]}
    settings = ClusterSettings.from_env(env)
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {"webhook": settings.webhook_port, "metrics": settings.metrics_port}
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}


def test_every_variable_is_one_it_reads(deployment: Object, repo: Path) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    text = "".join(p.read_text() for p in (repo / "controller").rglob("*.py"))
    for variable in container["env"]:
        assert f'"{variable["name"]}"' in text, variable["name"]


def test_a_drained_node_leaves_one_for_the_webhook(deployment: Object, objects: Objects) -> None:
    (budget,) = (o for o in objects["deploy/base"] if o["kind"] == "PodDisruptionBudget")
    assert 0 < budget["spec"]["minAvailable"] < deployment["spec"]["replicas"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"] == labels
