"""What is applied to a cluster, whatever the platform: whole, valid, and one with the other.

Kubernetes' own objects are checked against the API server's schemas, which the package
kubernetes-validate carries.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from .conftest import FOLDERS, key

KUBERNETES = "1.36"
FOREIGN = ("serving.knative.dev/", "apiextensions.k8s.io/")
"""Checked elsewhere, or not described by kubernetes-validate."""

Object = dict[str, Any]
Objects = dict[str, list[Object]]


def workloads(found: list[Object]) -> list[Object]:
    """Return the objects that make pods."""
    return [o for o in found if "template" in o.get("spec", {})]


def together(objects: Objects, folder: str) -> list[Object]:
    """Return a folder's objects with those that are applied before it."""
    before = {"deploy/base": [], "openfaas": ["deploy/openfaas"]}.get(folder, ["deploy/base"])
    return [o for name in (*before, folder) for o in objects[name]]


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_every_file_is_part_of_a_kustomization(repo: Path) -> None:
    for top in ("deploy", "knative", "k8s", "openfaas", "ebpf"):
        for path in (repo / top).rglob("kustomization.yaml"):
            if path.parent.name == "monitoring":  # has files to be used by hand, too
                continue
            kustomization = yaml.safe_load(path.read_text())
            files = {p.name for p in path.parent.glob("*.yaml")} - {path.name}
            named = kustomization["resources"]
            assert {n for n in named if n.endswith(".yaml")} == files, path
            below = {p.parent.name for p in path.parent.glob("*/kustomization.yaml")}
            assert below <= set(named), path
            numbers = [int(n.split("-")[0]) for n in named if n[0].isdigit()]
            assert numbers == sorted(set(numbers)), path


def test_fits_kubernetes_schemas(objects: Objects, folder: str) -> None:
    checked = [o for o in objects[folder] if not o["apiVersion"].startswith((*FOREIGN, "lifl."))]
    assert checked
    for found in checked:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_nothing_is_there_twice(objects: Objects, folder: str) -> None:
    keys = [key(o) for o in together(objects, folder)]
    assert len(keys) == len(set(keys))


def test_every_namespace_and_account_that_is_named_exists(objects: Objects, folder: str) -> None:
    every = {key(o) for o in together(objects, folder)}
    for found in objects[folder]:
        namespace = found["metadata"].get("namespace")
        assert namespace in (None, "knative-serving") or ("Namespace", "", namespace) in every
        if "template" in found.get("spec", {}):
            account = found["spec"]["template"]["spec"].get("serviceAccountName")
            assert account is None or ("ServiceAccount", namespace, account) in every
        for subject in found.get("subjects", ()):
            assert (subject["kind"], subject["namespace"], subject["name"]) in every
        if "roleRef" in found:
            role = found["roleRef"]
            place = "" if role["kind"] == "ClusterRole" else namespace
            assert (role["kind"], place, role["name"]) in every


def test_claims_and_secrets_that_are_mounted_exist_or_are_documented(
    objects: Objects, folder: str, repo: Path
) -> None:
    text = (repo / "docs/packaging.md").read_text()
    claims = {key(o)[1:] for o in objects[folder] if o["kind"] == "PersistentVolumeClaim"}
    for found in workloads(objects[folder]):
        pod = found["spec"]["template"]["spec"]
        for volume in pod.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                name = volume["persistentVolumeClaim"]["claimName"]
                assert (found["metadata"]["namespace"], name) in claims
        for container in pod["containers"]:
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference is not None:
                    assert reference["name"] == reference["key"]
                    assert f"create secret generic {reference['name']}" in text


def test_services_and_policies_choose_pods_that_there_are(objects: Objects, folder: str) -> None:
    labels = [
        (o["metadata"].get("namespace"), o["spec"]["template"]["metadata"].get("labels", {}))
        for o in workloads(together(objects, folder))
    ]
    for found in objects[folder]:
        spec = found.get("spec", {})
        wanted = spec.get("selector") if found["kind"] == "Service" else None
        if found["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            wanted = spec.get("podSelector", spec.get("selector", {})).get("matchLabels")
        if not wanted or found["apiVersion"].startswith(FOREIGN):
            continue
        if folder == "openfaas" and "lifl.dev/function" in wanted:
            continue  # the functions come from stack.yml
        namespace = found["metadata"]["namespace"]
        assert any(n == namespace and wanted.items() <= have.items() for n, have in labels), found


def test_images_carry_the_project_s_version(objects: Objects, folder: str, repo: Path) -> None:
    version = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["version"]
    for found in workloads(objects[folder]):
        for container in found["spec"]["template"]["spec"]["containers"]:
            registry, name = container["image"].rsplit("/", 1)
            assert registry == "registry.example.com/lifl"
            assert name.endswith(f":{version}")


def test_function_namespaces_are_the_controller_s(objects: Objects) -> None:
    for base, functions in (
        ("deploy/base", "knative"),
        ("deploy/base", "k8s"),
        ("deploy/openfaas", "openfaas"),
    ):
        (namespace,) = (o for o in objects[functions] if o["kind"] == "Namespace")
        name = namespace["metadata"]["name"]
        assert namespace["metadata"]["labels"]["lifl.dev/functions"] == "enabled"
        (controller,) = (o for o in objects[base] if o["kind"] == "Deployment")
        (container,) = controller["spec"]["template"]["spec"]["containers"]
        env = {e["name"]: e.get("value", "") for e in container["env"]}
        assert f".{name}.svc." in env["LIFL_COORDINATOR_URL"]
        bound = [o for o in objects[functions] if o["kind"] == "RoleBinding"]
        assert [(o["metadata"]["namespace"], o["roleRef"]["name"]) for o in bound] == [
            (name, "lifl-functions")
        ]


def test_redis_loses_nothing_that_was_committed(objects: Objects) -> None:
    for folder in ("knative", "k8s", "openfaas"):
        (found,) = (o for o in objects[folder] if o["kind"] == "StatefulSet")
        (container,) = found["spec"]["template"]["spec"]["containers"]
        args = container["args"]
        options = dict(zip(args[::2], args[1::2], strict=True))
        assert options["--appendonly"] == "yes"
        assert options["--appendfsync"] == "always"
        assert options["--maxmemory-policy"] == "noeviction"
        assert options["--requirepass"] == "$(REDISCLI_AUTH)"
        (claim,) = found["spec"]["volumeClaimTemplates"]
        (mount,) = container["volumeMounts"]
        assert (mount["name"], mount["mountPath"]) == (
            claim["metadata"]["name"],
            options["--dir"],
        )
