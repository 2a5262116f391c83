"""Pods as an API server shows them to a webhook: defaults filled in, not yet bound.

The Knative pod has what Knative Serving 1.23 makes of a Service like
knative/420-aggregator.yaml (pkg/reconciler/revision/resources/{deploy,queue}.go), the
OpenFaaS one what faas-netes 0.18.17 makes of stack.yml (pkg/handlers/deploy.go).
"""

from __future__ import annotations

from typing import Any

Pod = dict[str, Any]

HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def probe(**how: Any) -> dict[str, Any]:
    return {
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    } | how


def pod(
    name: str,
    namespace: str,
    labels: dict[str, str],
    annotations: dict[str, str],
    containers: list[dict[str, Any]],
    **spec: Any,
) -> Pod:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{name}-",
            "namespace": namespace,
            "labels": labels | {"pod-template-hash": "7d4b9c6f5d"},
            "annotations": annotations,
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"{name}-7d4b9c6f5d",
                    "uid": "7a0d2a29-5d2c-4a44-8b0f-3d8f1f6f5c10",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "containers": containers,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "preemptionPolicy": "PreemptLowerPriority",
            "priority": 0,
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{why}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                }
                for why in ("not-ready", "unreachable")
            ],
        }
        | spec,
    }


def queue_proxy(user_port: int = 8080, serving_port: int = 8012) -> dict[str, Any]:
    return {
        "name": "queue-proxy",
        "image": "gcr.io/knative-releases/knative.dev/serving/cmd/queue@sha256:" + "0" * 64,
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in (
                ("http-autometric", 9090),
                ("http-usermetric", 9091),
                ("queue-port", serving_port),
                ("https-port", 8112),
            )
        ],
        "env": [
            {"name": "SERVING_NAMESPACE", "value": "lifl"},
            {"name": "SERVING_SERVICE", "value": "aggregator"},
            {"name": "SERVING_CONFIGURATION", "value": "aggregator"},
            {"name": "SERVING_REVISION", "value": "aggregator-00001"},
            {"name": "QUEUE_SERVING_PORT", "value": str(serving_port)},
            {"name": "QUEUE_SERVING_TLS_PORT", "value": "8112"},
            {"name": "CONTAINER_CONCURRENCY", "value": "0"},
            {"name": "REVISION_TIMEOUT_SECONDS", "value": "300"},
            {"name": "REVISION_RESPONSE_START_TIMEOUT_SECONDS", "value": "0"},
            {"name": "REVISION_IDLE_TIMEOUT_SECONDS", "value": "0"},
            field("SERVING_POD", "metadata.name"),
            field("SERVING_POD_IP", "status.podIP"),
            {"name": "SERVING_LOGGING_CONFIG"},
            {"name": "SERVING_LOGGING_LEVEL"},
            {"name": "USER_PORT", "value": str(user_port)},
            {"name": "SYSTEM_NAMESPACE", "value": "knative-serving"},
            {
                "name": "SERVING_READINESS_PROBE",
                "value": '{"httpGet":{"path":"/readyz","port":8080,"host":"127.0.0.1",'
                '"scheme":"HTTP"},"successThreshold":1}',
            },
            field("HOST_IP", "status.hostIP"),
            {"name": "ENABLE_HTTP2_AUTO_DETECTION", "value": "false"},
            {"name": "ENABLE_HTTP_FULL_DUPLEX", "value": "false"},
            {"name": "ROOT_CA"},
            {"name": "ENABLE_MULTI_CONTAINER_PROBES", "value": "false"},
            {"name": "OBSERVABILITY_CONFIG", "value": "{}"},
        ],
        "resources": {"requests": {"cpu": "25m"}},
        "readinessProbe": probe(
            httpGet={
                "path": "/",
                "port": serving_port,
                "scheme": "HTTP",
                "httpHeaders": [{"name": "K-Network-Probe", "value": "queue"}],
            }
        ),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": HARDENED,
    }


def user_container(name: str = "user-container", port: int = 8080) -> dict[str, Any]:
    return {
        "name": name,
        "image": "registry.example.com/lifl/aggregator@sha256:" + "1" * 64,
        "ports": [{"name": "user-port", "containerPort": port, "protocol": "TCP"}],
        "env": [
            {"name": "LIFL_DOMAIN", "value": "somebody-elses-job"},
            {"name": "LIFL_SUM_THREADS", "value": "2"},
            {"name": "PORT", "value": str(port)},
            {"name": "K_REVISION", "value": "aggregator-00001"},
            {"name": "K_CONFIGURATION", "value": "aggregator"},
            {"name": "K_SERVICE", "value": "aggregator"},
        ],
        "resources": {"requests": {"cpu": "1", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "livenessProbe": probe(httpGet={"path": "/healthz", "port": port, "scheme": "HTTP"}),
        "lifecycle": {
            "preStop": {"httpGet": {"path": "/wait-for-drain", "port": 8022, "scheme": "HTTP"}}
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": HARDENED,
    }


def knative(function: str = "aggregator", **annotations: str) -> Pod:
    return pod(
        "aggregator-00001-deployment",
        "lifl",
        {
            "app": "aggregator-00001",
            "lifl.dev/function": function,
            "serving.knative.dev/configuration": "aggregator",
            "serving.knative.dev/configurationGeneration": "1",
            "serving.knative.dev/revision": "aggregator-00001",
            "serving.knative.dev/revisionUID": "0f7b4f8c-5e0c-4a30-9d55-0a5b8f4d2f1e",
            "serving.knative.dev/service": "aggregator",
        },
        {"kubectl.kubernetes.io/default-container": "user-container"} | annotations,
        [user_container(), queue_proxy()],
        terminationGracePeriodSeconds=300,
        serviceAccountName="aggregator",
        automountServiceAccountToken=False,
        enableServiceLinks=False,
        volumes=[{"name": "tmp", "emptyDir": {}}],
    )


def openfaas(function: str = "gateway") -> Pod:
    name = f"lifl-{function}"
    return pod(
        name,
        "openfaas-fn",
        {
            "faas_function": name,
            "lifl.dev/function": function,
            "com.openfaas.scale.min": "1",
        },
        {"prometheus.io.scrape": "false"},
        [
            {
                "name": name,
                "image": f"registry.example.com/lifl/{function}:0.1.0",
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "env": [
                    {"name": "LIFL_AUTH", "value": "on"},
                    {"name": "LIFL_NAME", "value": "gateway"},
                    {
                        "name": "LIFL_PLATFORM_SECRET_FILE",
                        "value": "/var/openfaas/secrets/lifl-platform",
                    },
                ],
                "resources": {"requests": {"cpu": "250m", "memory": "128Mi"}},
                "volumeMounts": [
                    {"name": "temp", "mountPath": "/tmp"},
                    {
                        "name": f"{name}-projected-secrets",
                        "mountPath": "/var/openfaas/secrets",
                        "readOnly": True,
                    },
                ],
                "livenessProbe": probe(
                    httpGet={"path": "/_/health", "port": 8080, "scheme": "HTTP"}
                ),
                "readinessProbe": probe(
                    httpGet={"path": "/_/health", "port": 8080, "scheme": "HTTP"}
                ),
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "imagePullPolicy": "Always",
                "securityContext": {"readOnlyRootFilesystem": True},
            }
        ],
        volumes=[
            {"name": "temp", "emptyDir": {}},
            {
                "name": f"{name}-projected-secrets",
                "projected": {
                    "defaultMode": 420,
                    "sources": [
                        {
                            "secret": {
                                "name": "lifl-platform",
                                "items": [{"key": "lifl-platform", "path": "lifl-platform"}],
                            }
                        }
                    ],
                },
            },
        ],
    )


def plain(function: str = "aggregator") -> Pod:
    """A Deployment's pod without anything that could be left out."""
    return pod(
        function,
        "lifl",
        {"app": function, "lifl.dev/function": function},
        {},
        [{"name": function, "image": f"registry.example.com/lifl/{function}:0.1.0"}],
    )
