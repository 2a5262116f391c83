"""knative/ holds what Knative takes: checked against its own schema, and its rules.

The gateways' Services are those that the controller makes of the template. The rules beside the
schema are Knative Serving 1.23's own, from pkg/apis/serving
(k8s_validation.go, fieldmask.go, revision_validation.go) and
pkg/apis/autoscaling/annotation_validation.go.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from controller.cluster.gateways import render
from controller.cluster.inject import DEFAULT_PORT
from lifl.naming import AUTOSCALER_CLASS

SERVICES = ("aggregator", "coordinator", "gateway-node-0")
ANNOTATIONS = {
    "activation-scale",
    "class",
    "initial-scale",
    "max-scale",
    "metric",
    "min-scale",
    "scale-down-delay",
    "scale-to-zero-pod-retention-period",
    "target",
    "target-burst-capacity",
    "target-utilization-percentage",
    "window",
}
"""Below autoscaling.knative.dev/."""
RESERVED_PORTS = {8008, 8012, 8013, 8022, 9090, 9091}
RESERVED_ENV = {"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"}
RESERVED_MOUNTS = {"/", "/dev", "/dev/log"}
MAX_TIMEOUT = 600
"""max-revision-timeout-seconds of config-defaults."""

Object = dict[str, Any]
Objects = dict[str, list[Object]]


@pytest.fixture(scope="module")
def schema() -> Object:
    path = Path(__file__).parent / "schemas" / "knative-service-v1.json"
    found: Object = json.loads(path.read_text())
    Draft202012Validator.check_schema(found)
    return found


@pytest.fixture(scope="module")
def services(objects: Objects, gateway_template: Object) -> dict[str, Object]:
    """Return the Knative Services of a cluster with one node, node-0."""
    found = [o for o in objects["knative"] if o["apiVersion"].startswith("serving.knative.dev/")]
    found.append(render(gateway_template, "node-0", "node-0", "lifl"))
    return {o["metadata"]["name"]: o for o in found}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, services: dict[str, Object]) -> Object:
    return services[request.param]


def pod(service: Object) -> Object:
    found: Object = service["spec"]["template"]["spec"]
    return found


def container(service: Object) -> Object:
    (found,) = pod(service)["containers"]
    return dict(found)


def function_of(service: Object) -> str:
    name: str = service["spec"]["template"]["metadata"]["labels"]["lifl.dev/function"]
    return name


def features(node: Object, value: Any) -> Iterator[str]:
    """Yield the feature flag of every field that ``value`` uses."""
    if "x-feature" in node:
        yield node["x-feature"]
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from features(
                node.get("properties", {}).get(key, node.get("additionalProperties") or {}), inner
            )
    elif isinstance(value, list):
        for inner in value:
            yield from features(node.get("items", {}), inner)


def config(objects: Objects, name: str) -> dict[str, str]:
    (found,) = (o for o in objects["deploy/knative"] if o["metadata"]["name"] == name)
    assert found["metadata"]["namespace"] == "knative-serving"
    data: dict[str, str] = found["data"]
    return data


# The Knative Services


def test_there_is_a_service_for_each_function(services: dict[str, Object]) -> None:
    assert sorted(services) == sorted(SERVICES)


def test_fits_knative_s_definition(schema: Object, service: Object) -> None:
    Draft202012Validator(schema).validate(service)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: pod(s)["containers"][0].update(lifecycle={}),
        lambda s: pod(s).update(nodeName="node-0"),
        lambda s: pod(s).update(timeoutSeconds="600"),
        lambda s: pod(s)["containers"][0]["securityContext"].update(procMount="Default"),
        lambda s: pod(s)["containers"][0]["env"].append({"name": "A", "value": True}),
        lambda s: s.update(apiVersion="serving.knative.dev/v1beta1"),
        lambda s: s["spec"].update(replicas=2),
    ],
    ids=["lifecycle", "nodeName", "timeout", "procMount", "env", "version", "replicas"],
)
def test_the_definition_refuses(
    schema: Object, services: dict[str, Object], spoil: Callable[[Object], object]
) -> None:
    spoilt = copy.deepcopy(services["gateway-node-0"])
    spoil(spoilt)
    with pytest.raises(ValidationError):
        Draft202012Validator(schema).validate(spoilt)


def test_who_deletes_the_functions_leaves_knative_alone(objects: Objects) -> None:
    assert {o["metadata"]["namespace"] for o in objects["deploy/knative"]} == {"knative-serving"}
    for folder in set(objects) - {"deploy/knative"}:
        for one in objects[folder]:
            names = one["metadata"].get("namespace", ""), one["metadata"]["name"]
            assert not any(n.startswith("knative-") for n in names), (folder, names)


def test_the_feature_flags_are_those_the_services_need(
    schema: Object, services: dict[str, Object], objects: Objects
) -> None:
    enabled = config(objects, "config-features")
    assert set(enabled.values()) == {"enabled"}
    needed = {f for s in services.values() for f in features(schema, s)}
    for service in services.values():
        for volume in pod(service)["volumes"]:
            claim = volume.get("persistentVolumeClaim")
            if claim and not claim.get("readOnly"):
                needed.add("kubernetes.podspec-persistent-volume-write")
    by_default = {"kubernetes.podspec-volumes-emptydir"}
    assert set(enabled) == needed - by_default


def test_scale_annotations(service: Object, objects: Objects) -> None:
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    scale = {k.removeprefix("autoscaling.knative.dev/"): v for k, v in annotations.items()}
    assert set(scale) <= ANNOTATIONS
    assert all(isinstance(v, str) for v in scale.values())
    assert int(scale.get("min-scale", "0")) <= int(scale.get("max-scale", "0"))
    if scale.get("initial-scale") == "0":
        assert config(objects, "config-autoscaler") == {"allow-zero-initial-scale": "true"}
    name = scale.get("class")
    if function_of(service) == "aggregator":
        # a class under .knative.dev would be refused unless it is one of Knative's own
        assert name == AUTOSCALER_CLASS
    else:
        assert name is None
        assert scale["min-scale"] == scale["max-scale"] == "1"


def test_knative_s_reserved_names_are_left_alone(service: Object) -> None:
    spec = container(service)
    (port,) = spec["ports"]
    assert port == {"containerPort": DEFAULT_PORT}
    assert port["containerPort"] not in RESERVED_PORTS
    assert not RESERVED_ENV & {e["name"] for e in spec.get("env", ())}
    assert not RESERVED_MOUNTS & {m["mountPath"] for m in spec["volumeMounts"]}


def test_timeouts_are_within_the_cluster_s(service: Object) -> None:
    spec = pod(service)
    whole = spec.get("timeoutSeconds", 300)
    assert spec.get("responseStartTimeoutSeconds", whole) <= whole <= MAX_TIMEOUT


def test_volumes_are_mounted_as_knative_wants_them(service: Object, objects: Objects) -> None:
    volumes = {v["name"]: v for v in pod(service)["volumes"]}
    mounts = container(service)["volumeMounts"]
    assert {m["name"] for m in mounts} == set(volumes)
    claims = {
        o["metadata"]["name"] for o in objects["knative"] if o["kind"] == "PersistentVolumeClaim"
    }
    for mount in mounts:
        volume = volumes[mount["name"]]
        claim = volume.get("persistentVolumeClaim")
        assert "emptyDir" in volume or claim or mount.get("readOnly")
        assert claim is None or claim["claimName"] in claims


def test_probes_need_no_port_of_their_own(service: Object) -> None:
    spec = container(service)
    assert spec["readinessProbe"] == {"httpGet": {"path": "/readyz"}}
    assert spec["livenessProbe"] == {"httpGet": {"path": "/healthz"}}


def test_functions_have_no_privileges(service: Object) -> None:
    context = dict(container(service)["securityContext"])
    assert context["runAsUser"] >= 10000
    assert context["runAsUser"] == context["runAsGroup"]
    del context["runAsUser"], context["runAsGroup"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod(service)["automountServiceAccountToken"] is False
    assert not any("hostPath" in v for v in pod(service)["volumes"])


def test_the_label_alone_makes_a_pod_ours(service: Object) -> None:
    template = service["spec"]["template"]["metadata"]
    assert template["labels"] == {"lifl.dev/function": service["metadata"]["name"].split("-")[0]}
    # the webhook says these, and takes queue-proxy out unless it is told not to
    assert "lifl.dev/sidecar" not in template["annotations"]
    said = {"LIFL_NODE", "LIFL_POD_IP", "LIFL_NAME", "LIFL_DOMAIN", "LIFL_REGISTRATION"}
    assert not (said | {"LIFL_AGENT_SOCKET"}) & {
        e["name"] for e in container(service).get("env", ())
    }
    assert "schedulerName" not in pod(service)


def test_only_gateways_are_public(service: Object) -> None:
    visibility = service["metadata"].get("labels", {}).get("networking.knative.dev/visibility")
    assert visibility == (None if function_of(service) == "gateway" else "cluster-local")


def test_aggregators_hold_no_secret(service: Object) -> None:
    env = {e["name"]: e for e in container(service).get("env", ())}
    if function_of(service) == "aggregator":
        assert not env
    else:
        assert "value" not in env["LIFL_PLATFORM_SECRET"]
    if function_of(service) == "coordinator":
        assert "value" not in env["LIFL_STATE_PASSWORD"]


def test_the_activator_s_metrics_are_on(objects: Objects) -> None:
    """They are how the first request for an aggregator without a pod is noticed."""
    assert config(objects, "config-observability") == {"metrics-protocol": "prometheus"}


def test_urls_name_services_of_this_folder(services: dict[str, Object], objects: Objects) -> None:
    gateway = {e["name"]: e.get("value") for e in container(services["gateway-node-0"])["env"]}
    assert "LIFL_GATEWAY_URL" not in gateway, "the webhook says it: the pod's address"
    assert gateway["LIFL_COORDINATOR_URL"] == "http://coordinator.lifl.svc.cluster.local"
    coordinator = {e["name"]: e.get("value") for e in container(services["coordinator"])["env"]}
    assert coordinator["LIFL_STATE_URL"].startswith("redis://redis.lifl.svc.cluster.local:6379/")
    names = [o["metadata"]["name"] for o in objects["knative"] if o["kind"] == "Service"]
    assert sorted(names) == ["aggregator", "coordinator", "redis"]


def test_images_are_openfaas_s(service: Object, stack: Object) -> None:
    function = "lifl-" + function_of(service)
    assert container(service)["image"] == stack["functions"][function]["image"]


def test_the_function_starts_with_these_settings(service: Object) -> None:
    function = function_of(service)
    env = {e["name"]: e.get("value", "00" * 32) for e in container(service).get("env", ())}
    if function == "gateway":  # the webhook says it
        env |= {"LIFL_GATEWAY_URL": "http://10.0.0.1:8080"}
    module = importlib.import_module(f"functions.{function}.settings")
    settings = getattr(module, f"{function.title()}Settings").from_env(env)
    assert str(settings.function.agent_socket) == "/run/lifl/agent.sock"


def test_every_variable_is_one_the_function_reads(service: Object, repo: Path) -> None:
    folder = repo / "functions" / function_of(service)
    text = "".join(p.read_text() for p in (*folder.rglob("*.py"), *repo.glob("lifl/*.py")))
    for variable in container(service).get("env", ()):
        assert f'"{variable["name"]}"' in text, variable["name"]
