"""What OpenFaaS's provider makes of `stack.yml`, where the provider itself does not run.

Why: the Community Edition's provider asks the internet for leave to start, and many clusters for
tests have none. `faas-cli generate` renders the functions; this makes the Deployment and the
Service of each, in the shape of faas-netes 0.18 (handlers/deploy.go): its labels, probes, pull
policy, secrets. It must not add what a function's description does not say.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.kube import REPO

NAMESPACE = "openfaas-fn"
Object = dict[str, Any]


def render(registry: str, tag: str, folder: Path, environment: dict[str, str]) -> Iterator[Object]:
    """Yield the Deployment and the Service of each function of `stack.yml`."""
    stack = folder / "stack.yml"
    text = (REPO / "stack.yml").read_text()
    stack.write_text(text.replace(":0.1.0", f":{tag}") if tag else text)
    env = os.environ | environment | {"LIFL_REGISTRY": registry}
    made = subprocess.run(
        ["faas-cli", "generate", "-f", str(stack)],
        env=env, cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    for function in yaml.safe_load_all(made.stdout):
        if function:
            yield _deployment(function["spec"])
            yield _service(function["spec"])


def _probe() -> Object:
    return {
        "httpGet": {"path": "/_/health", "port": 8080},
        "initialDelaySeconds": 2,
        "timeoutSeconds": 1,
        "periodSeconds": 2,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


def _deployment(spec: Object) -> Object:
    name, notes = spec["name"], {"prometheus.io.scrape": "false"} | (spec.get("annotations") or {})
    read_only = bool(spec.get("readOnlyRootFilesystem"))
    container: Object = {
        "name": name,
        "image": spec["image"],
        "imagePullPolicy": "Always",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [
            {"name": k, "value": v} for k, v in sorted((spec.get("environment") or {}).items())
        ],
        "readinessProbe": _probe(),
        "livenessProbe": _probe(),
        "resources": {
            what: {k: v for k, v in spec.get(what, {}).items() if v}
            for what in ("limits", "requests")
        },
        "securityContext": {"readOnlyRootFilesystem": read_only},
        "volumeMounts": [],
    }
    pod: Object = {"containers": [container], "volumes": []}
    if read_only:
        pod["volumes"].append({"name": "temp", "emptyDir": {}})
        container["volumeMounts"].append({"name": "temp", "mountPath": "/tmp"})
    if secrets := spec.get("secrets"):
        sources = [{"secret": {"name": s, "items": [{"key": s, "path": s}]}} for s in secrets]
        volume = f"{name}-projected-secrets"
        pod["volumes"].append({"name": volume, "projected": {"sources": sources}})
        mount = {"name": volume, "mountPath": "/var/openfaas/secrets", "readOnly": True}
        container["volumeMounts"].append(mount)
    labels = (spec.get("labels") or {}) | {"faas_function": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"faas_function": name},
            "annotations": notes,
        },
        "spec": {
            "replicas": int(labels.get("com.openfaas.scale.min", "1")),
            "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"faas_function": name}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"name": name, "labels": labels, "annotations": notes},
                "spec": pod,
            },
        },
    }


def _service(spec: Object) -> Object:
    name = spec["name"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": {"prometheus.io.scrape": "false"},
        },
        "spec": {
            "type": "ClusterIP",
            "selector": {"faas_function": name},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "targetPort": 8080}],
        },
    }
