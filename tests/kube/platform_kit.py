"""LIFL on a real API server: hollow nodes, real functions, real controllers, as users deploy them.

The functions come as OpenFaaS brings them (one Deployment each, with the labels that its provider
sets), the controller runs as a user that has the rights of ``deploy/controller`` and no more, and
pods are made only if the webhook lets them be.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save

from controller.clients import errors
from controller.clients.api import Cluster, Object
from controller.clients.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    FEDERATED_JOB,
    LEASE,
    NAMESPACE,
    POD,
    SECRET,
    WEBHOOK,
    Kind,
)
from lifl.auth import mint_client_token
from lifl.client import FederatedClient
from lifl.client.http import HttpError
from lifl.errors import LiflError
from lifl.platform.local import base_environment

from . import hollow
from .apiserver import ApiServer
from .jobs_kit import install, until

REPO = Path(__file__).resolve().parents[2]
SYSTEM, FUNCTIONS = "lifl-system", "lifl"
USER = f"system:serviceaccount:{SYSTEM}:controller"
COORDINATOR = "127.0.251.1"
DENSE = 240
RBAC = "rbac.authorization.k8s.io/v1"
ROLES = {
    kind: Kind(RBAC, plural, kind, namespaced=namespaced)
    for kind, plural, namespaced in (
        ("ClusterRole", "clusterroles", False),
        ("ClusterRoleBinding", "clusterrolebindings", False),
        ("Role", "roles", True),
        ("RoleBinding", "rolebindings", True),
    )
}
KEEP_SECONDS = 2.0


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


PORT = free_port()
"""Of all functions, each at an address of its own; 8080 may be taken at all of them."""


@dataclass
class Controller:
    """One controller process."""

    process: subprocess.Popen[bytes]
    webhook_port: int
    log: Path

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait."""
        self.process.send_signal(number)
        self.process.wait(30)


@dataclass
class Platform:
    """Everything that runs; see :func:`platform`."""

    server: ApiServer
    cluster: Cluster
    folder: Path
    secret: str
    nodes: list[hollow.Node] = field(default_factory=list)
    controllers: list[Controller] = field(default_factory=list)
    deployments: hollow.Deployments | None = None

    # -- parts --

    def start_controller(self, webhook_port: int = 0, **more: str) -> Controller:
        """Start one more controller, with ``more`` settings; the webhook is the first one's."""
        number = len(self.controllers)
        log = self.folder / f"controller-{number}.log"
        port = webhook_port or free_port()
        env = base_environment(os.environ) | {
            "KUBECONFIG": str(self.server.kubeconfig(USER, ["system:serviceaccounts"])),
            "LIFL_PLATFORM": "kubernetes",
            "LIFL_NAMESPACE": SYSTEM,
            "LIFL_HOST": "127.0.0.1",
            "LIFL_WEBHOOK_PORT": str(port),
            "LIFL_WEBHOOK_NAMES": "localhost",
            "LIFL_METRICS_PORT": "0",
            "LIFL_DRAIN_SECONDS": "0",
            "LIFL_COORDINATOR_URL": f"http://{COORDINATOR}:{PORT}",
            "LIFL_PLATFORM_SECRET": self.secret,
            "LIFL_IDENTITY_NAME": f"controller-{number}",
            "LIFL_KEEP_SECONDS": str(KEEP_SECONDS),
            "LIFL_LOG_LEVEL": "INFO",
            **more,
        }
        with log.open("ab") as out:
            process = subprocess.Popen(
                (sys.executable, "-m", "controller"), env=env, stdout=out, stderr=out
            )
        found = Controller(process, port, log)
        self.controllers.append(found)
        return found

    def start_node(self, name: str, number: int = 0, *, kubelet: bool = True) -> hollow.Node:
        """Start a node with its agent; without its ``kubelet`` nobody runs its pods."""
        node = hollow.Node(
            self.cluster,
            name,
            number or len(self.nodes) + 1,
            self.folder,
            namespace=FUNCTIONS,
            fixed={"coordinator": COORDINATOR},
        )
        tls = node.folder / "tls"
        tls.mkdir()
        self.nodes.append(node)
        self._write_certificates(node)
        node.start_agent({"LIFL_PLATFORM_SECRET": self.secret, "LIFL_TLS_DIR": str(tls)}, SYSTEM)
        if kubelet:
            node.start()
        return node

    def _write_certificates(self, node: hollow.Node) -> None:
        """Mount the agents' Secret, as a kubelet would."""
        secret = until(
            lambda: self.cluster.find(SECRET, "lifl-agent-tls", SYSTEM), "the agents' certificate"
        )
        for name, value in secret["data"].items():
            (node.folder / "tls" / name).write_bytes(base64.b64decode(value))

    def node(self, name: str) -> hollow.Node:
        """Return a node."""
        return next(n for n in self.nodes if n.name == name)

    # -- looking --

    def pods(self, function: str = "aggregator") -> list[Object]:
        """Return the pods of a function that are not on their way out."""
        found, _ = self.cluster.list(POD, FUNCTIONS, labels=f"lifl.dev/function={function}")
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]

    def gateways(self) -> list[str]:
        """Return the URLs of the gateways that are ready."""
        return [
            f"http://{p['status']['podIP']}:{PORT}"
            for p in self.pods("gateway")
            if hollow.is_ready(p)
        ]

    def replicas(self, name: str) -> int:
        """Return how many pods a Deployment is to have."""
        return int(self.cluster.get(DEPLOYMENT, name, FUNCTIONS)["spec"]["replicas"])

    def leader(self) -> str:
        """Return the name of the controller that leads."""
        lease = self.cluster.get(LEASE, "lifl-controller", SYSTEM)
        return str(lease["spec"]["holderIdentity"]).rpartition("_")[0]

    def number_of_leader(self) -> int:
        """Return which of the controllers leads."""
        return int(self.leader().removeprefix("controller-"))

    def delete_job(self, job: Job) -> None:
        """Delete a job's object; its clients hear that it is over, or that there is none."""
        job.deleted = True
        self.cluster.delete(FEDERATED_JOB, job.name, FUNCTIONS)

    def logs(self) -> str:
        """Return the ends of all logs, for a failure's message."""
        files = sorted(self.folder.rglob("*.log"))
        return "\n".join(f"== {f.name}\n{f.read_text(errors='replace')[-4000:]}" for f in files)

    # -- jobs --

    def submit(self, name: str, clients: int, rounds: int) -> Job:
        """Apply a FederatedJob whose model is in a ConfigMap; return it with its key."""
        model = save({"whole": np.zeros(DENSE, np.float32)})
        data = {"model.safetensors": base64.b64encode(model).decode()}
        body = {"metadata": {"name": f"{name}-model"}, "binaryData": data}
        self.cluster.create(CONFIG_MAP, body, FUNCTIONS)
        spec: dict[str, Any] = {
            "rounds": rounds,
            "model": {"configMap": {"name": f"{name}-model", "key": "model.safetensors"}},
            "clients": {"perRound": clients, "selection": "all"},
            "aggregation": {"fanIn": 2},
            "pool": {"slots": 32},
        }
        self.cluster.create(FEDERATED_JOB, {"metadata": {"name": name}, "spec": spec}, FUNCTIONS)
        key = until(
            lambda: self.cluster.find(SECRET, f"{name}-key", FUNCTIONS), "the job's key", 60.0
        )
        until(lambda: self._running(name), "the job to have its model", 60.0)
        return Job(self, name, base64.b64decode(key["data"]["auth_key"]).decode(), clients)

    def _running(self, name: str) -> bool:
        found = self.cluster.get(FEDERATED_JOB, name, FUNCTIONS).get("status", {})
        conditions = {c["type"]: c["status"] for c in found.get("conditions", ())}
        return conditions.get("ModelReceived") == "True"


class Job:
    """A job and its clients; client *i* of *n* adds 2**i to every weight, of one sample each."""

    def __init__(self, on: Platform, name: str, key: str, clients: int) -> None:
        self.name = name
        self.models: dict[int, set[float]] = {}
        self._on = on
        self._key = bytes.fromhex(key)
        self._clients = clients
        self.deleted = False
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self.hold = threading.Event()
        """Clients wait for it before they submit."""
        self.hold.set()

    def start(self) -> None:
        """Start all clients, one thread each."""
        gateways = until(lambda: self._on.gateways() or None, "a gateway", 60.0)
        for i in range(self._clients):
            url = gateways[i % len(gateways)]
            thread = threading.Thread(target=self._take_part, args=(i, url), name=f"client-{i}")
            thread.start()
            self._threads.append(thread)

    def _take_part(self, number: int, url: str) -> None:
        name = f"c{number}"
        token = mint_client_token(self._key, self.name, name)
        try:
            with FederatedClient(url, job=self.name, client=name, token=token) as client:
                for round_ in client.rounds():
                    weights = round_.model()["whole"]
                    self.models.setdefault(round_.number, set()).add(float(weights[0]))
                    self.hold.wait()
                    mine = {"whole": weights + np.float32(2.0**number)}
                    round_.submit(mine, num_samples=1)
        except LiflError as e:
            if not (self.deleted and isinstance(e, HttpError) and e.status == 404):
                self._errors.append(e)

    def finish(self, seconds: float = 120.0) -> None:
        """Wait for the clients to hear that the job is over; raise what went wrong."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"{thread.name} is not done\n{self._on.logs()}"
        assert not self._errors, (self._errors, self._on.logs())

    def status(self) -> dict[str, Any]:
        """Return the object's status."""
        found: dict[str, Any] = self._on.cluster.get(FEDERATED_JOB, self.name, FUNCTIONS)
        return found.get("status", {})

    def mean(self) -> float:
        """Return what a round adds to every weight if each update counts once."""
        return float(2**self._clients - 1) / self._clients


@contextlib.contextmanager
def platform(server: ApiServer, *, nodes: int = 2, controllers: int = 1) -> Iterator[Platform]:
    """Run LIFL at an API server of its own; end it all afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lifl-kube-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = Cluster.connect(server.admin)
    found = Platform(server, cluster, folder, secrets.token_hex(32))
    try:
        prepare(found)
        port = free_port()
        point_webhook(cluster, port)
        found.start_controller(port)
        until(lambda: has_bundle(cluster), "the webhook's certificate", 60.0)
        for _ in range(1, controllers):
            found.start_controller()
        for i in range(nodes):
            found.start_node(f"node-{i}")
        found.deployments = hollow.Deployments(cluster, FUNCTIONS)
        found.deployments.start()
        yield found
    except AssertionError:
        print(found.logs())
        raise
    finally:
        end(found)


def end(found: Platform) -> None:
    """End everything but the API server."""
    for controller in found.controllers:
        if controller.process.poll() is None:
            controller.process.kill()
        controller.process.wait()
    if found.deployments is not None:
        found.deployments.stop()
    for node in found.nodes:
        node.close()
    found.cluster.close()
    shutil.rmtree(found.folder, ignore_errors=True)


def prepare(found: Platform) -> None:
    """Have the API server know jobs, namespaces, roles, and the functions' Deployments."""
    cluster = found.cluster
    install(cluster)
    labels = {"lifl.dev/functions": "enabled"}
    for name, own in ((SYSTEM, {}), (FUNCTIONS, labels)):
        with contextlib.suppress(errors.Exists):
            cluster.create(NAMESPACE, {"metadata": {"name": name, "labels": own}})
    for document in yaml.safe_load_all((REPO / "deploy/controller/210-roles.yaml").read_text()):
        _put(cluster, ROLES[document["kind"]], document)
    for document in yaml.safe_load_all((REPO / "openfaas/210-role.yaml").read_text()):
        body = {**document, "metadata": {**document["metadata"], "namespace": FUNCTIONS}}
        _put(cluster, ROLES[document["kind"]], body)
    secret = {"lifl-platform": base64.b64encode(found.secret.encode()).decode()}
    with contextlib.suppress(errors.Exists):
        cluster.create(SECRET, {"metadata": {"name": "lifl-platform"}, "data": secret}, FUNCTIONS)
    for function, replicas in (("coordinator", 1), ("gateway", 1), ("aggregator", 0)):
        cluster.create(DEPLOYMENT, _deployment(found, function, replicas), FUNCTIONS)


def _put(cluster: Cluster, kind: Kind, body: Object) -> None:
    with contextlib.suppress(errors.Exists):
        cluster.create(kind, body, body["metadata"].get("namespace", ""))


def _deployment(found: Platform, function: str, replicas: int) -> Object:
    """Return a function's Deployment as OpenFaaS's provider makes it, as far as it matters."""
    name = f"lifl-{function}"
    labels = {"faas_function": name, "lifl.dev/function": function}
    if function == "aggregator":
        labels["lifl.dev/scale-to-zero"] = "true"
    reference = {"name": "lifl-platform", "key": "lifl-platform"}
    env: list[Object] = [
        {"name": "LIFL_COORDINATOR_URL", "value": f"http://{COORDINATOR}:{PORT}"},
        {"name": "LIFL_HOME", "value": str(found.folder / function)},
    ]
    if function != "aggregator":
        env.append({"name": "LIFL_PLATFORM_SECRET", "valueFrom": {"secretKeyRef": reference}})
    container = {
        "name": name,
        "image": f"registry.example.com/lifl/{function}:0.1.0",
        "ports": [{"containerPort": PORT}],
        "env": env,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"faas_function": name}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def point_webhook(cluster: Cluster, port: int) -> None:
    """Put the manifest's webhook in, served by a process of this machine instead of a Service."""
    body = yaml.safe_load((REPO / "deploy/controller/310-webhook.yaml").read_text())
    body["webhooks"][0]["clientConfig"] = {"url": f"https://localhost:{port}/mutate"}
    with contextlib.suppress(errors.Exists):
        cluster.create(WEBHOOK, body)


def has_bundle(cluster: Cluster) -> bool:
    """Say whether a controller has put its authority in the webhook."""
    (hook,) = cluster.get(WEBHOOK, "lifl")["webhooks"]
    return bool(hook["clientConfig"].get("caBundle"))
