"""A large hollow cluster: what a controller watches, without anything that runs.

Why: the tests of the controller (`tests/kube`) have a real API server, agents and all the
objects that a controller needs; this adds as many nodes and bound pods as a figure asks for,
and a coordinator that only tells and is told plans. It must not know what is measured.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from controller.clients.api import Cluster, Object
from controller.clients.kinds import DEPLOYMENT, NODE, POD
from lifl.naming import ANNOTATION_JOB, ANNOTATION_NAME, LABEL_FUNCTION, SCHEDULER
from lifl.topology import Level, Plan, Role, Timing

GEOMETRY = {"slots": 8, "float_bytes": 4096, "meta_bytes": 12288}
AGGREGATOR = "lifl-aggregator"
CLIENTS = 2
"""Of a job that runs."""
MAKERS = 8
WATCH_SECONDS = 25.0


class Coordinator:
    """Tells who watches what :attr:`jobs` and :attr:`nodes` are; a plan opens its job's round."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.nodes: list[str] = []
        self._revision = 1
        self._changed = threading.Condition()
        self._ended = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                query = dict(part.split("=") for part in self.path.partition("?")[2].split("&"))
                self._answer(outer.watch(int(query["since"]), float(query["wait"])))

            def do_PUT(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if "plan" in body:
                    outer.planned(body["plan"])
                self._answer(b"{}")

            def do_DELETE(self) -> None:
                self._answer(b"{}")

            def _answer(self, raw: bytes) -> None:
                with contextlib.suppress(ConnectionError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,))
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def tell(self, job: dict[str, Any]) -> None:
        """Add a job, or put it in the place of what was told of it."""
        with self._changed:
            self.jobs[job["job"]] = job
            self._revision += 1
            self._changed.notify_all()

    def planned(self, plan: dict[str, Any]) -> None:
        """Take a plan; its job's round is open."""
        self.tell(self.jobs[plan["job"]] | {"plan": plan, "phase": "open"})

    def watch(self, since: int, seconds: float) -> bytes:
        """Return everything, once its revision is not ``since``."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._revision != since, seconds)
            jobs, revision = list(self.jobs.values()), self._revision
        told = {"rev": revision, "jobs": jobs, "nodes": self.nodes, "leaving": []}
        return json.dumps(told).encode()


def job(name: str, clients: int, plan: Plan | None = None) -> dict[str, Any]:
    """Return what the coordinator tells of a job in its first round."""
    return {
        "job": name,
        "domain_uid": 200_000,
        "round": 1,
        "assignment": 1,
        "version": 0,
        "phase": "planning" if plan is None else "open",
        "geometry": GEOMETRY,
        "fan_in": 2,
        "timing": "eager",
        "selected": [f"c{i}" for i in range(clients)],
        "expected": clients,
        "clients": {},
        "plan": None if plan is None else plan.to_json(),
    }


def running_plan(name: str, nodes: list[str], aggregators: int) -> Plan:
    """Return the plan of a job that has so many aggregators, dealt to ``nodes``."""
    top = f"{name}-agg-0"
    roles = [
        Role(
            f"{name}-agg-{i}",
            nodes[i % len(nodes)],
            Level.LEAF if i else Level.TOP,
            2,
            top if i else None,
        )
        for i in range(aggregators)
    ]
    clients = {f"c{i}": nodes[i] for i in range(CLIENTS)}
    return Plan(name, 1, 1, Timing.EAGER, tuple(roles), clients)


def fill(cluster: Cluster, namespace: str, nodes: Iterable[str], plans: Iterable[Plan]) -> None:
    """Make the nodes, and a bound, ready pod for each aggregator of the plans."""
    deployment = cluster.get(DEPLOYMENT, AGGREGATOR, namespace)
    pods = [
        _pod(deployment, plan.job, role, number)
        for number, (plan, role) in enumerate((p, r) for p in plans for r in p.roles)
    ]
    with ThreadPoolExecutor(MAKERS) as makers:
        list(makers.map(lambda name: _make_node(cluster, name), nodes))
        list(makers.map(lambda pod: _make_pod(cluster, namespace, *pod), enumerate(pods)))
    body = {"spec": {"replicas": len(pods)}}
    cluster.patch(DEPLOYMENT, AGGREGATOR, body, namespace, subresource="scale")


def _make_node(cluster: Cluster, name: str) -> None:
    cluster.create(NODE, {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
    amounts = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    ready = [{"type": "Ready", "status": "True", "reason": "Hollow"}]
    status = {"capacity": amounts, "allocatable": amounts, "conditions": ready}
    cluster.patch(NODE, name, {"status": status}, subresource="status")
    cluster.patch(NODE, name, {"spec": {"taints": None}})  # "not ready", since it was made


def _make_pod(cluster: Cluster, namespace: str, number: int, body: Object) -> None:
    cluster.create(POD, body, namespace)
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    cluster.patch(
        POD, body["metadata"]["name"], {"status": status}, namespace, subresource="status"
    )


def _pod(deployment: Object, job_name: str, role: Role, number: int) -> Object:
    made = replica(deployment, f"{AGGREGATOR}-{number}")
    made["metadata"]["annotations"] = {ANNOTATION_JOB: job_name, ANNOTATION_NAME: role.name}
    made["spec"] |= {"nodeName": role.node, "schedulerName": SCHEDULER}
    return made


def replica(deployment: Object, name: str, **labels: str) -> Object:
    """Return a pod as the Deployment's controller would make it."""
    meta, template = deployment["metadata"], deployment["spec"]["template"]
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "controller": True}
    owner |= {"name": meta["name"], "uid": meta["uid"]}
    own = {**template["metadata"]["labels"], **labels}
    assert own[LABEL_FUNCTION] == "aggregator"
    metadata = {"name": name, "labels": own, "ownerReferences": [owner]}
    return {"metadata": metadata, "spec": dict(template["spec"])}


@contextlib.contextmanager
def coordinator() -> Iterator[Coordinator]:
    """Run a coordinator that only tells."""
    made = Coordinator()
    try:
        yield made
    finally:
        made.close()


def wait_for(ask: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Return the first true answer, asked for every few milliseconds."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.002)
    return found
