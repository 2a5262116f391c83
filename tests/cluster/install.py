"""LIFL put on a cluster the documented way, and taken off it again.

Why: what users type (`docs/packaging.md`, `docs/operations.md`) is what is tested. It must not
touch what it did not make: an installation that is there already is replaced only if
LIFL_CLUSTER_REPLACE=1 says so.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from pathlib import Path
from typing import Any

from tests.cluster import openfaas
from tests.cluster.kube import REPO, kubectl, query, run, until
from tests.cluster.settings import Settings
from tests.cluster.volumes import Volumes

SYSTEM = "lifl-system"
CLAIMS = {"checkpoints": "20Gi", "data-redis-0": "2Gi"}
FOLDERS = {"knative": "knative", "kubernetes": "k8s", "openfaas": "openfaas"}
Object = dict[str, Any]


def available() -> tuple[str, ...]:
    """Return the platforms that this cluster can be tested with."""
    knative = "serving.knative.dev/v1" in kubectl("api-versions").split()
    return ("knative", "kubernetes") if knative else ("kubernetes",)


class Installation:
    """One platform's installation, with its namespace and secrets."""

    def __init__(self, platform: str, settings: Settings) -> None:
        self.platform = platform
        self.settings = settings
        self.namespace = openfaas.NAMESPACE if platform == "openfaas" else "lifl"
        self.key = secrets.token_hex(32)
        coordinator = f"{settings.registry}/coordinator:{settings.tag or _version()}"
        self._volumes = Volumes(coordinator)
        self._made_namespace = False

    # -- putting on --

    def install(self) -> None:
        """Install everything and wait until it is ready."""
        self._make_room()
        if self.settings.hostpath:
            claims = {
                k: v for k, v in CLAIMS.items() if self.platform != "openfaas" or "redis" in k
            }
            self._volumes.make(claims, self.namespace)
        elif not _has_storage():
            raise AssertionError(
                "this cluster has no default StorageClass: mark one as default, or set "
                "LIFL_CLUSTER_VOLUMES=hostpath for volumes on a node's disk"
            )
        self._apply("deploy/openfaas" if self.platform == "openfaas" else "deploy/base")
        if kubectl("get", "ns", self.namespace, "--ignore-not-found") == "":
            kubectl("create", "namespace", self.namespace)
            self._made_namespace = True
        for namespace in (SYSTEM, self.namespace):
            self._secret(namespace, "lifl-platform", self.key)
        self._secret(self.namespace, "lifl-redis", secrets.token_hex(24))
        for what in ("daemonset/agent", "deployment/controller"):
            kubectl("-n", SYSTEM, "rollout", "status", what, "--timeout=180s")
        until(_webhook_has_certificate, "the webhook's certificate")
        activator = self.platform == "knative" and not _activator_tells()
        if self.platform == "knative":
            self._apply("deploy/knative")
        self._apply(FOLDERS[self.platform])
        if activator:
            kubectl("-n", "knative-serving", "rollout", "restart", "deployment", "activator")
            kubectl("-n", "knative-serving", "rollout", "status", "deployment", "activator")
        if self.platform == "openfaas":
            self._functions()
        until(self.is_ready, "all functions to be ready", 180.0)

    def _make_room(self) -> None:
        namespaces = {n["metadata"]["name"] for n in query("get", "namespaces")["items"]}
        deployed = kubectl("-n", openfaas.NAMESPACE, "get", "deployment", "-o", "name", check=False)
        found = namespaces & {"lifl", SYSTEM}
        if "/lifl-coordinator" in deployed:
            found.add(openfaas.NAMESPACE)
        if found and not self.settings.replace:
            raise AssertionError(
                f"LIFL is on this cluster already ({', '.join(sorted(found))}); tests replace it, "
                "with all its jobs and models, only if LIFL_CLUSTER_REPLACE=1 is set"
            )
        if found:
            remove(openfaas.NAMESPACE if openfaas.NAMESPACE in found else "")

    def _apply(self, folder: str) -> None:
        s = self.settings
        tag = ("--tag", s.tag) if s.tag else ()
        text = run("scripts/manifests", "--registry", s.registry, *tag, folder)
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=text)

    def _secret(self, namespace: str, name: str, value: str) -> None:
        literal = f"--from-literal={name}={value}"
        kubectl("-n", namespace, "create", "secret", "generic", name, literal)

    def _functions(self) -> None:
        """Stand in for `faas-cli up`; see :mod:`tests.cluster.openfaas`."""
        s = self.settings
        public = f"{s.openfaas}/function/lifl-gateway" if s.openfaas else ""
        with tempfile.TemporaryDirectory() as folder:
            made = openfaas.render(s.registry, s.tag, Path(folder), {"LIFL_PUBLIC_URL": public})
            kubectl("apply", "-f", "-", given="\n---\n".join(map(json.dumps, made)))

    def is_ready(self) -> bool:
        """Whether a coordinator and a gateway a node are ready."""
        agents = query("-n", SYSTEM, "get", "daemonset", "agent")["status"]["numberReady"]
        pods = query("-n", self.namespace, "get", "pods", "-l", "lifl.dev/function")["items"]
        ready = [p["metadata"]["labels"]["lifl.dev/function"] for p in pods if pod_ready(p)]
        if self.platform == "knative" and len(self.knative_gateways()) != agents:
            return False
        return "coordinator" in ready and ready.count("gateway") == agents

    # -- looking --

    def pods(self, function: str = "aggregator") -> list[Object]:
        """Return the pods of a function that are not on their way out."""
        found = query("-n", self.namespace, "get", "pods", "-l", f"lifl.dev/function={function}")
        return [p for p in found["items"] if "deletionTimestamp" not in p["metadata"]]

    def knative_gateways(self) -> list[str]:
        """Return the URLs of the per-node gateway Services that are ready."""
        found = query("-n", self.namespace, "get", "ksvc", "-l", "lifl.dev/gateway-of")["items"]
        return [
            s["status"]["url"]
            for s in found
            if any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in s.get("status", {}).get("conditions", ())
            )
        ]

    # -- taking off --

    def uninstall(self) -> None:
        """Take off what :meth:`install` put on."""
        own = self._made_namespace or self.platform != "openfaas"
        remove("" if own else self.namespace)
        if own:
            _delete_namespace(self.namespace)
        if self.settings.hostpath:
            self._volumes.remove()


def remove(shared: str = "") -> None:
    """Uninstall as `docs/operations.md` says; ``shared`` is OpenFaaS's namespace, which stays."""
    if "federatedjobs.lifl.dev" in kubectl("get", "crd", "-o", "name"):
        kubectl("delete", "federatedjobs", "--all", "-A", "--timeout=60s", check=False)
        for job in query("get", "federatedjobs", "-A")["items"]:  # nobody left to end them
            name, ns = job["metadata"]["name"], job["metadata"]["namespace"]
            patch = '{"metadata":{"finalizers":null}}'
            kubectl("-n", ns, "patch", "fj", name, "--type=merge", "-p", patch, check=False)
    if shared:
        names = [f"{k}/lifl-{f}" for k in ("deployment", "service") for f in openfaas_functions()]
        names += ["statefulset/redis", "service/redis", "networkpolicy/redis"]
        names += ["networkpolicy/aggregator", "rolebinding/lifl-controller", "pvc/data-redis-0"]
        names += ["secret/lifl-platform", "secret/lifl-redis"]
        kubectl("-n", shared, "delete", "--ignore-not-found", *names)
        kubectl("label", "namespace", shared, "lifl.dev/functions-")
    _delete_namespace("lifl")
    kubectl("delete", "-k", "deploy/base", "--ignore-not-found")


def _delete_namespace(name: str) -> None:
    """Delete a namespace, its Knative Services first.

    Their pods may take 600 s to end, so Kubernetes would look again after half of that only.
    """
    if "serving.knative.dev/v1" in kubectl("api-versions").split():
        template = ("configmap", "gateway-template")  # or the controller makes gateways again
        kubectl("-n", name, "delete", *template, "--ignore-not-found")
        kubectl("-n", name, "delete", "ksvc", "--all")
        kubectl("-n", name, "wait", "--for=delete", "pod", "-l", "serving.knative.dev/service",
                "--timeout=120s", check=False)  # fmt: skip
    kubectl("delete", "namespace", name, "--ignore-not-found", seconds=400.0)


def openfaas_functions() -> tuple[str, ...]:
    """Return the names of the functions."""
    return ("coordinator", "gateway", "aggregator")


def pod_ready(pod: Object) -> bool:
    """Whether a pod is ready and stays."""
    states = {c["type"]: c["status"] for c in pod["status"].get("conditions", ())}
    return states.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _version() -> str:
    text = (REPO / "pyproject.toml").read_text()
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("version"))


def _has_storage() -> bool:
    key = "storageclass.kubernetes.io/is-default-class"
    found = query("get", "storageclass")["items"]
    return any((c["metadata"].get("annotations") or {}).get(key) == "true" for c in found)


def _webhook_has_certificate() -> bool:
    (hook,) = query("get", "mutatingwebhookconfiguration", "lifl")["webhooks"]
    return bool(hook["clientConfig"].get("caBundle"))


def _activator_tells() -> bool:
    found = query("-n", "knative-serving", "get", "configmap", "config-observability")
    return (found.get("data") or {}).get("metrics-protocol") == "prometheus"
