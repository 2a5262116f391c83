"""What the packaging tests share: the repository's descriptions, read as their tools read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@pytest.fixture(scope="session")
def repo() -> Path:
    """Return the repository's root."""
    return REPO


@pytest.fixture(scope="session")
def stack() -> dict[str, Any]:
    """Return stack.yml as faas-cli reads it when no variable is set."""
    text = _VARIABLE.sub(r"\2", (REPO / "stack.yml").read_text())
    assert "${" not in text, "every variable of stack.yml needs a default"
    found: dict[str, Any] = yaml.safe_load(text)
    return found


Object = dict[str, Any]

FOLDERS = ("deploy/base", "deploy/knative", "knative", "k8s", "openfaas")
"""What is applied, in this order (deploy/openfaas is deploy/base, for OpenFaaS)."""


def kustomize(folder: Path) -> list[Object]:
    """Return the objects of a kustomization, in its order, as kubectl does with what we use of it.

    That is: files, other kustomizations, a namespace for all, and patches by merge that name
    containers and variables by ``name``.
    """
    found: list[Object] = []
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= {"apiVersion", "kind", "resources", "namespace", "patches"}
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        assert path.is_relative_to(REPO)
        found += kustomize(path) if path.is_dir() else yaml.safe_load_all(path.read_text())
    for one in found:
        if "namespace" in kustomization:
            one["metadata"]["namespace"] = kustomization["namespace"]
    for patch in kustomization.get("patches", ()):
        change = yaml.safe_load(patch["patch"])
        (target,) = (o for o in found if key(o) == key(change))
        merge(target, change)
    return found


def key(found: Object) -> tuple[str, str, str]:
    """Return what no two objects of a cluster share."""
    meta = found["metadata"]
    return found["kind"], meta.get("namespace", ""), meta["name"]


def merge(into: Object, change: Object) -> None:
    """Merge as kustomize does; lists of things with names by these."""
    for name, value in change.items():
        there = into.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            merge(there, value)
        elif isinstance(value, list) and isinstance(there, list):
            for item in value:
                merge(next(t for t in there if t["name"] == item["name"]), item)
        else:
            into[name] = value


@pytest.fixture(scope="session")
def objects() -> dict[str, list[Object]]:
    """Return the Kubernetes objects of each kustomization that is applied."""
    return {folder: kustomize(REPO / folder) for folder in (*FOLDERS, "deploy/openfaas")}


@pytest.fixture(scope="session")
def gateway_template(objects: dict[str, list[Object]]) -> Object:
    """Return the Knative Service that the controller makes per-node gateways of."""
    (found,) = (o for o in objects["knative"] if o["metadata"]["name"] == "gateway-template")
    assert set(found["data"]) == {"service.yaml"}
    template: Object = yaml.safe_load(found["data"]["service.yaml"])
    return template
