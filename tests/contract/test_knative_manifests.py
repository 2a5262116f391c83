"""knative/ and ebpf/ hold what a cluster takes: checked against Knative's and Kubernetes' schemas.

The rules beside the schemas are Knative Serving 1.23's own, from pkg/apis/serving
(k8s_validation.go, fieldmask.go, revision_validation.go) and
pkg/apis/autoscaling/annotation_validation.go.
"""

from __future__ import annotations

import copy
import importlib
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from ebpf.agent.settings import AgentSettings

KUBERNETES = "1.36"
SERVICES = ("aggregator-digits", "coordinator", "gateway-node-0")
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
def services(objects: Objects) -> dict[str, Object]:
    return {
        o["metadata"]["name"]: o
        for o in objects["knative"]
        if o["apiVersion"].startswith("serving.knative.dev/")
    }


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, services: dict[str, Object]) -> Object:
    return services[request.param]


@pytest.fixture(scope="module")
def daemonset(objects: Objects) -> Object:
    (found,) = (o for o in objects["ebpf"] if o["kind"] == "DaemonSet")
    return found


def pod(service: Object) -> Object:
    found: Object = service["spec"]["template"]["spec"]
    return found


def container(service: Object) -> Object:
    (found,) = pod(service)["containers"]
    return dict(found)


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
    (found,) = (o for o in objects["knative"] if o["metadata"]["name"] == name)
    assert found["metadata"]["namespace"] == "knative-serving"
    data: dict[str, str] = found["data"]
    return data


# The kustomizations


@pytest.mark.parametrize("folder", ["knative", "ebpf"])
def test_the_kustomization_names_every_file(repo: Path, folder: str) -> None:
    kustomization = yaml.safe_load((repo / folder / "kustomization.yaml").read_text())
    assert sorted(kustomization) == ["apiVersion", "kind", "resources"]
    files = {p.name for p in (repo / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    if folder == "knative":
        numbers = [int(name.split("-")[0]) for name in kustomization["resources"]]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("folder", ["knative", "ebpf"])
def test_every_object_of_kubernetes_fits_its_schema(objects: Objects, folder: str) -> None:
    checked = [o for o in objects[folder] if not o["apiVersion"].startswith("serving.")]
    assert checked
    for found in checked:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_every_namespace_and_account_that_is_named_exists(objects: Objects) -> None:
    for folder in ("knative", "ebpf"):
        names = {(o["kind"], o["metadata"]["name"]) for o in objects[folder]}
        for found in objects[folder]:
            namespace = found["metadata"].get("namespace", "knative-serving")
            assert namespace == "knative-serving" or ("Namespace", namespace) in names
            if "template" in found.get("spec", {}):
                account = found["spec"]["template"]["spec"]["serviceAccountName"]
                assert ("ServiceAccount", account) in names


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
    if service["metadata"]["name"].startswith("aggregator"):
        # a class under .knative.dev would be refused unless it is one of Knative's own
        assert name == "hierarchy.lifl.dev"
        assert pod(service)["schedulerName"] == "lifl-scheduler"
    else:
        assert name is None
        assert scale["min-scale"] == scale["max-scale"] == "1"


def test_knative_s_reserved_names_are_left_alone(service: Object) -> None:
    spec = container(service)
    (port,) = spec["ports"]
    assert port == {"containerPort": 8080}
    assert port["containerPort"] not in RESERVED_PORTS
    assert not RESERVED_ENV & {e["name"] for e in spec["env"]}
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
    context = container(service)["securityContext"]
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


def test_only_the_webhook_brings_the_agent_s_socket(
    service: Object, objects: Objects, stack: Object
) -> None:
    template = service["spec"]["template"]["metadata"]
    assert template["labels"]["lifl.dev/agent"] == "true"
    assert all(f["labels"]["lifl.dev/agent"] == "true" for f in stack["functions"].values())
    sidecar = template["labels"].get("lifl.dev/sidecar")
    assert (sidecar == "none") == service["metadata"]["name"].startswith("aggregator")


def test_only_gateways_are_public(service: Object) -> None:
    visibility = service["metadata"].get("labels", {}).get("networking.knative.dev/visibility")
    public = service["metadata"]["name"].startswith("gateway")
    assert visibility == (None if public else "cluster-local")


def test_aggregators_hold_no_platform_secret(service: Object) -> None:
    env = {e["name"]: e for e in container(service)["env"]}
    if service["metadata"]["name"].startswith("aggregator"):
        assert "LIFL_PLATFORM_SECRET" not in env
        assert service["metadata"]["name"] == f"aggregator-{env['LIFL_DOMAIN']['value']}"
    else:
        assert "value" not in env["LIFL_PLATFORM_SECRET"]


def test_the_gateway_s_names_go_together(services: dict[str, Object]) -> None:
    service = services["gateway-node-0"]
    env = {e["name"]: e.get("value") for e in container(service)["env"]}
    (node,) = pod(service)["nodeSelector"].values()
    assert service["metadata"]["name"] == f"gateway-{node}"
    assert env["LIFL_GATEWAY_URL"] == f"http://gateway-{node}.lifl.svc.cluster.local"
    assert env["LIFL_COORDINATOR_URL"] == "http://coordinator.lifl.svc.cluster.local"


def test_images_are_openfaas_s(service: Object, stack: Object) -> None:
    function = "lifl-" + service["metadata"]["name"].split("-")[0]
    assert container(service)["image"] == stack["functions"][function]["image"]


def test_the_function_starts_with_these_settings(service: Object) -> None:
    function = service["metadata"]["name"].split("-")[0]
    env = {e["name"]: e.get("value", "00" * 32) for e in container(service)["env"]}
    module = importlib.import_module(f"functions.{function}.settings")
    settings = getattr(module, f"{function.title()}Settings").from_env(env)
    assert str(settings.function.agent_socket) == env["LIFL_AGENT_SOCKET"]


def test_every_variable_is_one_the_function_reads(service: Object, repo: Path) -> None:
    folder = repo / "functions" / service["metadata"]["name"].split("-")[0]
    text = "".join(p.read_text() for p in (*folder.rglob("*.py"), *repo.glob("lifl/*.py")))
    for variable in container(service)["env"]:
        assert f'"{variable["name"]}"' in text, variable["name"]


# The agent


def test_the_agent_s_rights_are_the_least_that_work(daemonset: Object) -> None:
    spec = daemonset["spec"]["template"]["spec"]
    (agent,) = spec["containers"]
    assert agent["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["hostPID"] is True
    assert not {"hostIPC", "hostNetwork", "securityContext"} & set(spec)
    assert spec["automountServiceAccountToken"] is False


def test_the_agent_writes_only_where_it_must(daemonset: Object) -> None:
    spec = daemonset["spec"]["template"]["spec"]
    (agent,) = spec["containers"]
    paths = {v["name"]: v.get("hostPath", {}).get("path") for v in spec["volumes"]}
    mounts = {m["name"]: m for m in agent["volumeMounts"]}
    assert set(paths) == set(mounts)
    writable = {paths[n] for n, m in mounts.items() if paths[n] and not m.get("readOnly")}
    assert writable == {"/run/lifl", "/run/lifl-agent", "/sys/fs/bpf"}
    assert {p for p in paths.values() if p} - writable == {"/lib/modules", "/usr/src"}
    assert all(paths[n] in (None, m["mountPath"]) for n, m in mounts.items())


def test_the_agent_runs_on_every_node(daemonset: Object) -> None:
    spec = daemonset["spec"]["template"]["spec"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    assert daemonset["spec"]["selector"]["matchLabels"] == labels


def test_functions_see_the_registration_socket_and_not_the_admin_one(
    daemonset: Object, services: dict[str, Object]
) -> None:
    (agent,) = daemonset["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value", "") for e in agent["env"]}
    socket = Path(env["LIFL_AGENT_SOCKET"])
    assert Path(env["LIFL_ADMIN_SOCKET"]).parent != socket.parent
    for service in services.values():
        values = {e["name"]: e.get("value") for e in container(service)["env"]}
        assert values["LIFL_AGENT_SOCKET"] == str(socket)


def test_the_agent_s_image_carries_the_project_s_version(daemonset: Object, repo: Path) -> None:
    version = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["version"]
    (agent,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert agent["image"].endswith(f"/agent:{version}")


def test_the_agent_keeps_its_pins_where_they_outlive_it(daemonset: Object) -> None:
    (agent,) = daemonset["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value", "node-0") for e in agent["env"]}
    settings = AgentSettings.from_env(env)
    assert settings.pin_dir.parent == Path("/sys/fs/bpf")
    private = Path("/run/lifl-agent")
    assert settings.state_file.is_relative_to(private)
    assert settings.admin_socket.is_relative_to(private)
    (port,) = agent["ports"]
    assert port["containerPort"] == settings.metrics_port


def test_every_variable_is_one_the_agent_reads(daemonset: Object, repo: Path) -> None:
    text = "".join(p.read_text() for p in (repo / "ebpf").rglob("*.py"))
    (agent,) = daemonset["spec"]["template"]["spec"]["containers"]
    for variable in agent["env"]:
        assert f'"{variable["name"]}"' in text, variable["name"]
