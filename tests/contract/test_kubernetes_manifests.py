"""k8s/ has the same functions as knative/, as Deployments and a DaemonSet."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from controller.cluster.inject import DEFAULT_PORT

Object = dict[str, Any]
Objects = dict[str, list[Object]]

FUNCTIONS = ("aggregator", "coordinator", "gateway")


@pytest.fixture(params=FUNCTIONS)
def function(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def workload(objects: Objects, function: str) -> Object:
    (found,) = (
        o
        for o in objects["k8s"]
        if o["kind"] in ("Deployment", "DaemonSet") and o["metadata"]["name"] == function
    )
    return found


def container(found: Object) -> Object:
    (only,) = found["spec"]["template"]["spec"]["containers"]
    return dict(only)


def environment(found: Object) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container(found).get("env", ())}


def knative(objects: Objects, template: Object, function: str) -> Object:
    if function == "gateway":
        return template
    (found,) = (
        o
        for o in objects["knative"]
        if o["apiVersion"].startswith("serving.") and o["metadata"]["name"] == function
    )
    return found


def test_the_label_alone_makes_a_pod_ours(objects: Objects, function: str) -> None:
    found = workload(objects, function)
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert labels["lifl.dev/function"] == function
    assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert "schedulerName" not in found["spec"]["template"]["spec"]


def test_is_what_knative_runs(objects: Objects, gateway_template: Object, function: str) -> None:
    """Image, rights, resources, volumes and account are the same; settings are, but for URLs."""
    there = knative(objects, gateway_template, function)["spec"]["template"]["spec"]
    here = workload(objects, function)["spec"]["template"]["spec"]
    for field in ("serviceAccountName", "automountServiceAccountToken", "volumes"):
        assert here[field] == there[field]
    assert here.get("securityContext") == there.get("securityContext")
    (theirs,), (ours,) = there["containers"], here["containers"]
    for field in ("image", "resources", "securityContext", "volumeMounts"):
        assert ours[field] == theirs[field]
    own = {"HOST_IP", "LIFL_PUBLIC_URL"}
    assert [e for e in ours.get("env", ()) if e["name"] not in own] == theirs.get("env", [])


def test_probes(objects: Objects, function: str) -> None:
    found = container(workload(objects, function))
    assert found["ports"][0]["containerPort"] == DEFAULT_PORT
    # kubelet looks as often; what nobody waits for need not start sooner
    assert found["readinessProbe"] == {
        "httpGet": {"path": "/readyz", "port": DEFAULT_PORT},
        "periodSeconds": 1,
    }
    assert found["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": DEFAULT_PORT}


def test_one_gateway_a_node_at_the_port_that_clients_are_told(objects: Objects) -> None:
    found = workload(objects, "gateway")
    assert found["kind"] == "DaemonSet"
    (port,) = container(found)["ports"]
    variables = container(found)["env"]
    names = [v["name"] for v in variables]
    assert names.index("HOST_IP") < names.index("LIFL_PUBLIC_URL"), "what is referred to is first"
    assert variables[names.index("HOST_IP")]["valueFrom"]["fieldRef"] == {
        "fieldPath": "status.hostIP"
    }
    assert environment(found)["LIFL_PUBLIC_URL"] == f"http://$(HOST_IP):{port['hostPort']}"


def test_the_coordinator_is_one(objects: Objects) -> None:
    spec = workload(objects, "coordinator")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_number_of_aggregators_is_the_controller_s(objects: Objects) -> None:
    """A number here would end pods in the middle of a round whenever this is applied again."""
    assert "replicas" not in workload(objects, "aggregator")["spec"]


def test_services_lead_to_the_functions_port(objects: Objects) -> None:
    services = {o["metadata"]["name"]: o for o in objects["k8s"] if o["kind"] == "Service"}
    assert sorted(services) == ["coordinator", "gateway", "redis"]
    for name in ("coordinator", "gateway"):
        (port,) = services[name]["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (80, DEFAULT_PORT)


def test_the_function_starts_with_these_settings(objects: Objects, function: str) -> None:
    env = environment(workload(objects, function))
    env |= {
        name: "00" * 32 for name in ("LIFL_PLATFORM_SECRET", "LIFL_STATE_PASSWORD") if name in env
    }
    if function == "gateway":  # the webhook says it
        env |= {"LIFL_GATEWAY_URL": "http://10.0.0.1:8080"}
        env["LIFL_PUBLIC_URL"] = env["LIFL_PUBLIC_URL"].replace("$(HOST_IP)", "192.0.2.1")
    module = importlib.import_module(f"functions.{function}.settings")
    settings = getattr(module, f"{function.title()}Settings").from_env(env)
    assert str(settings.function.agent_socket) == "/run/lifl/agent.sock"


def test_every_variable_is_one_the_function_reads(
    objects: Objects, function: str, repo: Path
) -> None:
    folder = repo / "functions" / function
    text = "".join(p.read_text() for p in (*folder.rglob("*.py"), *repo.glob("lifl/*.py")))
    for name in environment(workload(objects, function)):
        assert f'"{name}"' in text or name == "HOST_IP", name
