"""What a test cluster lacks besides its API server: who makes pods of Deployments and runs them.

Why: a job is carried through by the real controller, scheduler and webhook at a real API
server, with the real functions as processes: only containers are missing. A hollow node starts
a pod's function with the environment that its spec asks for (downward API included), on an
address of its own in 127.0.0.0/8, in a cgroup that names the pod as a kubelet's does, so that
the agent's proof of identity is real too. It must not know seats, jobs or plans.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.clients import errors
from controller.clients.api import Cluster, Object
from controller.clients.kinds import DEPLOYMENT, NODE, POD, SECRET
from lifl import naming
from lifl.errors import LiflError
from lifl.platform.local import base_environment, gunicorn

TICK = 0.1
_MOUNT = Path("/sys/fs/cgroup")
CGROUPS = _MOUNT / "unified" if (_MOUNT / "unified").is_dir() else _MOUNT
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_REFERENCE = re.compile(r"\$\(([A-Z_0-9]+)\)")
_ANNOTATION = re.compile(r"metadata\.annotations\['(.+)'\]")


class Loop:
    """A thread that calls :meth:`step` again and again; errors of the API server pass."""

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self.problem: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and raise what went wrong in it."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.problem is not None:
            raise self.problem

    def _run(self) -> None:
        while not self._ended.wait(TICK):
            try:
                self.step()
            except LiflError:
                continue
            except BaseException as e:
                self.problem = e
                return

    def step(self) -> None:
        """Do once what is to be done."""
        raise NotImplementedError


class Deployments(Loop):
    """Makes and deletes the pods of all Deployments of a namespace, as the stock controllers do.

    Of too many it deletes first those that are not bound, then by the cost of deletion.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        super().__init__(f"deployments-{namespace}")
        self._cluster = cluster
        self._namespace = namespace
        self.created = 0

    def step(self) -> None:
        """Bring every Deployment to its number of replicas."""
        deployments, _ = self._cluster.list(DEPLOYMENT, self._namespace)
        pods, _ = self._cluster.list(POD, self._namespace)
        for deployment in deployments:
            self._bring(deployment, pods)

    def _bring(self, deployment: Object, pods: list[Object]) -> None:
        name, uid = deployment["metadata"]["name"], deployment["metadata"]["uid"]
        own = [p for p in pods if any(o["uid"] == uid for o in _owners(p))]
        live = [p for p in own if "deletionTimestamp" not in p["metadata"]]
        wanted = deployment["spec"]["replicas"]
        for _ in range(wanted - len(live)):
            self._cluster.create(POD, self._pod(deployment), self._namespace)
            self.created += 1
        if len(live) > wanted:
            live.sort(key=lambda p: (bool(p["spec"].get("nodeName")), is_ready(p), _cost(p)))
            for pod in live[: len(live) - wanted]:
                meta = pod["metadata"]
                self._cluster.delete(POD, meta["name"], self._namespace, uid=meta["uid"])
        status = {"replicas": len(live), "readyReplicas": sum(map(is_ready, live))}
        if any(deployment.get("status", {}).get(k, 0) != v for k, v in status.items()):
            status |= {"availableReplicas": status["readyReplicas"], "observedGeneration": 1}
            self._cluster.patch(
                DEPLOYMENT, name, {"status": status}, self._namespace, subresource="status"
            )

    @staticmethod
    def _pod(deployment: Object) -> Object:
        meta, template = deployment["metadata"], deployment["spec"]["template"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "controller": True}
        owner |= {"name": meta["name"], "uid": meta["uid"]}
        metadata = dict(template["metadata"]) | {"ownerReferences": [owner]}
        return {
            "metadata": metadata | {"generateName": f"{meta['name']}-"},
            "spec": template["spec"],
        }


@dataclass
class Running:
    """A pod's process."""

    uid: str
    address: str
    port: int
    process: subprocess.Popen[bytes]
    cgroup: Path | None
    ready: bool = False
    log: Path = field(default_factory=Path)


class Node(Loop):
    """A node: its object, its agent's process and pod, and the processes of its pods.

    ``number`` (1 to 250) gives it the addresses 127.0.number.x; the agent has x = 1. Functions
    in ``fixed`` have the address given there, as a Service would.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        number: int,
        folder: Path,
        *,
        namespace: str,
        fixed: Mapping[str, str] = {},
    ) -> None:
        super().__init__(f"kubelet-{name}")
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        self.agent_socket = self.folder / "agent.sock"
        self.address = f"127.0.{number}.1"
        self.pods: dict[str, Running] = {}
        self._cluster = cluster
        self._number = number
        self._namespace = namespace
        self._next = 1
        self._agent: subprocess.Popen[bytes] | None = None
        self._fixed = fixed
        labels = {"kubernetes.io/hostname": name}
        cluster.create(NODE, {"metadata": {"name": name, "labels": labels}})
        status = {
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Hollow"}],
        }
        cluster.patch(NODE, name, {"status": status}, subresource="status")
        cluster.patch(NODE, name, {"spec": {"taints": None}})  # "not ready", since it was made

    # -- the agent ---------------------------------------------------------------------

    def start_agent(self, env: Mapping[str, str], namespace: str) -> None:
        """Start the agent's process and make its pod's object."""
        environment = base_environment(os.environ) | {
            "LIFL_NODE": self.name,
            "LIFL_RUN_DIR": str(self.folder),
            "LIFL_AGENT_SOCKET": str(self.agent_socket),
            "LIFL_ADMIN_SOCKET": str(self.folder / "admin.sock"),
            "LIFL_ADMIN_LISTEN": f"{self.address}:9465",
            "LIFL_DATAPLANE": "socket",
            "LIFL_IDENTITY": "pod",
            **env,
        }
        with (self.folder / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen(
                (sys.executable, "-m", "ebpf.agent"), env=environment, stdout=log, stderr=log
            )
        labels = {"app.kubernetes.io/name": "lifl-agent"}
        containers = [{"name": "agent", "image": "hollow"}]
        pod = {
            "metadata": {"name": f"agent-{self.name}", "labels": labels},
            "spec": {"nodeName": self.name, "containers": containers},
        }
        with contextlib.suppress(errors.Exists):
            self._cluster.create(POD, pod, namespace)
        self._set_status(f"agent-{self.name}", namespace, self.address, ready=True)

    def stop_agent(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the agent's process."""
        if self._agent is not None:
            self._agent.send_signal(number)
            self._agent.wait(10)
            self._agent = None

    # -- pods --------------------------------------------------------------------------

    def step(self) -> None:
        """Start what was bound here, end what was deleted, report who is ready."""
        found, _ = self._cluster.list(POD, self._namespace, fields=f"spec.nodeName={self.name}")
        for pod in found:
            name, running = pod["metadata"]["name"], self.pods.get(pod["metadata"]["name"])
            if "deletionTimestamp" in pod["metadata"]:
                self._end(name, pod["metadata"]["uid"])
            elif running is None:
                self._start(pod)
            else:
                self._look(name, running)

    def _start(self, pod: Object) -> None:
        meta = pod["metadata"]
        function = meta.get("labels", {}).get(naming.LABEL_FUNCTION)
        if not function:
            return
        self._next += 1
        address = self._fixed.get(function, f"127.0.{self._number}.{self._next}")
        self._set_status(meta["name"], self._namespace, address, ready=False)
        env = self._environment(pod, address)
        log_path = self.folder / f"{meta['name']}.log"
        cgroup = _cgroup(meta["uid"])
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                _in_cgroup(cgroup, gunicorn(function)),
                env=env,
                cwd="/",
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        port = int(env["PORT"])
        self.pods[meta["name"]] = Running(meta["uid"], address, port, process, cgroup, log=log_path)

    def _environment(self, pod: Object, address: str) -> dict[str, str]:
        found: dict[str, str] = {}
        container = pod["spec"]["containers"][0]
        for item in container.get("env", ()):
            value = item.get("value", "")
            if "valueFrom" in item:
                value = self._looked_up(item["valueFrom"], pod, address)
            found[item["name"]] = _REFERENCE.sub(lambda m: found.get(m[1], m[0]), value)
        ports = container.get("ports") or [{"containerPort": 8080}]
        home = self.folder / pod["metadata"]["name"]
        home.mkdir(exist_ok=True)
        return (
            base_environment(os.environ)
            | {"PORT": str(ports[0]["containerPort"]), "LIFL_HOME": str(home)}
            | found
            | {"LIFL_AGENT_SOCKET": str(self.agent_socket), "LIFL_HOST": address}
        )

    def _looked_up(self, source: Mapping[str, Any], pod: Object, address: str) -> str:
        if "secretKeyRef" in source:
            import base64

            reference = source["secretKeyRef"]
            secret = self._cluster.get(SECRET, reference["name"], self._namespace)
            return base64.b64decode(secret["data"][reference["key"]]).decode()
        path = source["fieldRef"]["fieldPath"]
        annotation = _ANNOTATION.fullmatch(path)
        if annotation:
            return str(pod["metadata"].get("annotations", {}).get(annotation[1], ""))
        known = {
            "metadata.name": pod["metadata"]["name"],
            "spec.nodeName": self.name,
            "status.podIP": address,
            "status.hostIP": self.address,
        }
        return known[path]

    def _look(self, name: str, running: Running) -> None:
        if running.process.poll() is not None:
            with contextlib.suppress(OSError):
                if running.cgroup is not None:
                    running.cgroup.rmdir()
            del self.pods[name]  # restarted at the next step, as a kubelet would
            return
        ready = _answers(running.address, running.port)
        if ready != running.ready:
            running.ready = ready
            self._set_status(name, self._namespace, running.address, ready=ready)

    def _end(self, name: str, uid: str) -> None:
        running = self.pods.pop(name, None)
        if running is not None:
            _stop(running)
        with contextlib.suppress(errors.Conflict):
            self._cluster.delete(POD, name, self._namespace, uid=uid, grace=0)

    def _set_status(self, name: str, namespace: str, address: str, *, ready: bool) -> None:
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        status = {"phase": "Running", "podIP": address, "hostIP": self.address}
        status |= {"podIPs": [{"ip": address}], "conditions": [condition]}  # type: ignore[dict-item]
        with contextlib.suppress(errors.NotFound):
            self._cluster.patch(POD, name, {"status": status}, namespace, subresource="status")

    def kill_all(self) -> None:
        """Kill every process of the node at once: it has lost its power."""
        if self._agent is not None:
            self._agent.kill()
            self._agent.wait()
            self._agent = None
        for running in self.pods.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()

    def close(self) -> None:
        """End everything of the node."""
        self.stop()
        for name in list(self.pods):
            _stop(self.pods.pop(name))
        self.stop_agent()


def _stop(running: Running) -> None:
    running.process.terminate()
    try:
        running.process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
    if running.cgroup is not None:
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            try:
                running.cgroup.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def _cgroup(uid: str) -> Path | None:
    """Make the cgroup of a pod; None where this user may not."""
    path = CGROUPS / f"lifl-kubepods-pod{uid}"
    try:
        path.mkdir(exist_ok=True)
    except OSError:
        return None
    return path


def _in_cgroup(cgroup: Path | None, argv: tuple[str, ...]) -> tuple[str, ...]:
    if cgroup is None:
        return argv
    enter = f'echo $$ > "{cgroup}/cgroup.procs"; exec "$@"'
    return ("/bin/sh", "-c", enter, "sh", *argv)


def _answers(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _owners(pod: Object) -> list[Object]:
    return list(pod["metadata"].get("ownerReferences", ()))


def is_ready(pod: Object) -> bool:
    """Say whether a pod is ready."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _cost(pod: Object) -> int:
    return int(pod["metadata"].get("annotations", {}).get(DELETION_COST, 0))
