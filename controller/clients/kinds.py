"""The kinds of objects that the controller reads or writes.

Why: a path at the API server follows from group, version and plural alone, so that
no generated model has to know a kind. It must not do I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: ``api`` is "v1" or "group/version"."""

    api: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def root(self) -> str:
        """Return the path of its group and version."""
        return f"/api/{self.api}" if "/" not in self.api else f"/apis/{self.api}"

    def path(self, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """Return the path of one object, or of all in a namespace ("": everywhere)."""
        parts = [self.root]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


POD = Kind("v1", "pods", "Pod")
NODE = Kind("v1", "nodes", "Node", namespaced=False)
NAMESPACE = Kind("v1", "namespaces", "Namespace", namespaced=False)
SECRET = Kind("v1", "secrets", "Secret")
CONFIG_MAP = Kind("v1", "configmaps", "ConfigMap")
EVENT = Kind("v1", "events", "Event")
SERVICE = Kind("v1", "services", "Service")
DEPLOYMENT = Kind("apps/v1", "deployments", "Deployment")
REPLICA_SET = Kind("apps/v1", "replicasets", "ReplicaSet")
LEASE = Kind("coordination.k8s.io/v1", "leases", "Lease")
WEBHOOK = Kind(
    "admissionregistration.k8s.io/v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
FEDERATED_JOB = Kind("lifl.dev/v1alpha1", "federatedjobs", "FederatedJob")
POD_AUTOSCALER = Kind(
    "autoscaling.internal.knative.dev/v1alpha1", "podautoscalers", "PodAutoscaler"
)
SERVERLESS_SERVICE = Kind(
    "networking.internal.knative.dev/v1alpha1", "serverlessservices", "ServerlessService"
)
KNATIVE_SERVICE = Kind("serving.knative.dev/v1", "services", "Service")
