"""Throwaway volumes on a node's disk, for clusters without a StorageClass.

Why: the manifests claim volumes as users' clusters have them; a cluster for tests may have none.
It must not touch a volume or a directory that it did not make.
"""

from __future__ import annotations

import json
import secrets

from tests.cluster.kube import kubectl, query

LABEL = "lifl.dev/test-cluster"
PARENT = "/var/lib/lifl-test-cluster"


class Volumes:
    """Two volumes on one node, for the claims of Redis and the coordinator."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._token = secrets.token_hex(4)
        self._node = ""

    def make(self, claims: dict[str, str], namespace: str) -> None:
        """Make a volume for each claim of this name and size."""
        ready = [n["metadata"]["name"] for n in query("get", "nodes")["items"] if _is_ready(n)]
        self._node = sorted(ready)[0]
        paths = {c: f"{PARENT}/{self._token}/{c}" for c in claims}
        self._on_node(f"[os.makedirs(p) or os.chmod(p, 0o777) for p in {list(paths.values())}]")
        for claim, size in claims.items():
            body = {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"lifl-{claim}-{self._token}", "labels": {LABEL: self._token}},
                "spec": {
                    "capacity": {"storage": size},
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": namespace, "name": claim},
                    "hostPath": {"path": paths[claim]},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [self._term()]}},
                },
            }
            kubectl("apply", "-f", "-", given=json.dumps(body))

    def remove(self) -> None:
        """Delete volumes and directories; the claims are gone."""
        kubectl("delete", "pv", "-l", f"{LABEL}={self._token}")
        if self._node:
            self._on_node(f"shutil.rmtree('{PARENT}/{self._token}', True)")

    def _term(self) -> dict[str, object]:
        key = "kubernetes.io/hostname"
        return {"matchExpressions": [{"key": key, "operator": "In", "values": [self._node]}]}

    def _on_node(self, code: str) -> None:
        """Run a line of Python as root on the node, in a pod that sees this directory alone."""
        name = f"lifl-volumes-{secrets.token_hex(3)}"
        mounts = [{"name": "disk", "mountPath": PARENT}]
        volume = {"name": "disk", "hostPath": {"path": PARENT, "type": "DirectoryOrCreate"}}
        spec = {
            "nodeName": self._node,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "volumes": [volume],
            "containers": [
                {
                    "name": "disk",
                    "image": self._image,
                    "command": ["python3", "-c", f"import os, shutil\n{code}"],
                    "securityContext": {"runAsUser": 0, "runAsNonRoot": False},
                    "volumeMounts": mounts,
                }
            ],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubectl("-n", "default", "apply", "-f", "-", given=json.dumps(pod))
        phase = "jsonpath={.status.phase}=Succeeded"
        try:
            kubectl("-n", "default", "wait", f"pod/{name}", f"--for={phase}", "--timeout=120s")
        finally:
            kubectl("-n", "default", "delete", "pod", name, "--wait=false")


def _is_ready(node: dict[str, object]) -> bool:
    status = node["status"]
    assert isinstance(status, dict)
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status["conditions"])
