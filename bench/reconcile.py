"""How soon a controller of a large cluster has done what one change asks for.

``reconcile_ms_1k_nodes``: the real controller (``python -m controller`` with
LIFL_PLATFORM=kubernetes, leading, with its webhook) at a real kube-apiserver and etcd, with
1,000 ready Node objects and 10,000 running, bound aggregator pods of 100 jobs in an open
round; one of the nodes has a real agent (a process, reached over mutual TLS), the other 999
have an agent's pod that is not there yet. Nodes and pods are objects only: no kubelet runs.

One change is: the coordinator tells of one more job, whose round is to be planned for one
client. What is counted, in milliseconds, is the time from the moment that the coordinator
publishes this (it is a thread of the benchmark) until the API server has announced the
binding of the new aggregator's pod. In between the controller hears of it, makes the job's
pool at the agent, plans, wants a seat, applies the plan at the agent, tells the plan to the
coordinator, writes the new scale of the aggregator's Deployment, admits the new pod (webhook)
and binds it with its seat. That pod is made by the benchmark at once when it sees the new
scale, as the ReplicaSet's controller would; its start is no part of the figure.

Notes: ``scale_ms`` until the scale was seen, ``look_ms`` a mean pass of the controller's loop,
``list_s`` to list and read all pods once (by the controller's own code, in this process),
``start_s`` from the start of the controller's process until its loop has looked once, with
everything listed, ``rss_mb`` the resident memory of its process at the end.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench import kube
from bench.figures import Figure, at_most
from controller.clients.api import Cluster, Object
from controller.clients.cache import Cache
from controller.clients.kinds import DEPLOYMENT, POD
from controller.cluster.objects import PodView, pod_view
from lifl.topology import Plan
from tests.kube import platform_kit
from tests.kube.apiserver import ApiServer
from tests.kube.platform_kit import FUNCTIONS, SYSTEM, Platform

ASSETS = Path(__file__).parents[1] / "scripts/kube-assets"
NODES, PODS, JOBS = 1000, 10_000, 100
NODES_OF_A_JOB = 10
CHANGES, WARM = 11, 2
REST_SECONDS = 1.0
"""Between two changes: everything that the last one asked for has been done then."""
REAL_NODE, REAL_NUMBER = "real-0", 200
MINE = "lifl.dev/bench"
KEEP = {"LIFL_KEEP_SECONDS": "36000", "LIFL_SEAT_SECONDS": "36000"}


def run() -> list[Figure]:
    """Return ``reconcile_ms_1k_nodes``."""
    assets = subprocess.run([ASSETS], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with ApiServer(Path(assets)) as server, kube.coordinator() as told, _platform(server) as on:
        names = [f"hollow-{i}" for i in range(NODES - 1)]
        plans = _plans(names)
        began = time.monotonic()
        kube.fill(on.cluster, FUNCTIONS, names, plans)
        _make_agents(on.cluster, names)
        filled = time.monotonic() - began
        listed = _list(on.cluster)
        told.nodes = sorted([*names, REAL_NODE])
        for plan in plans:
            told.tell(kube.job(plan.job, kube.CLIENTS, plan))
        started, metrics = _start_controller(on, told.url)
        with _Watching(on.cluster) as watching:
            samples = [_change(watching, told, i) for i in range(WARM + CHANGES)][WARM:]
        process = psutil.Process(on.controllers[0].process.pid)
        notes = {
            "nodes": NODES,
            "pods": PODS,
            "jobs": JOBS,
            "scale_ms": round(statistics.median(s for s, _ in samples), 1),
            "look_ms": round(_mean_look(metrics) * 1e3, 1),
            "list_s": round(listed, 1),
            "start_s": round(started, 1),
            "fill_s": round(filled),
            "rss_mb": process.memory_info().rss >> 20,
        }
    return [Figure("reconcile_ms_1k_nodes", "ms", [b for _, b in samples], at_most(1000), notes)]


def _plans(names: list[str]) -> list[Plan]:
    """Return the jobs' plans: each has its nodes to itself."""
    found = []
    for i in range(JOBS):
        mine = names[i * NODES_OF_A_JOB : (i + 1) * NODES_OF_A_JOB]
        found.append(kube.running_plan(f"job-{i}", mine, PODS // JOBS))
    return found


# -- what runs -------------------------------------------------------------------------


@contextlib.contextmanager
def _platform(server: ApiServer) -> Iterator[Platform]:
    """Have all objects that a controller needs; end what was started afterwards."""
    with tempfile.TemporaryDirectory(prefix="lifl-bench-", dir="/tmp") as folder:
        path = Path(folder)
        path.chmod(0o755)
        on = Platform(server, Cluster.connect(server.admin), path, secrets.token_hex(32))
        try:
            platform_kit.prepare(on)
            yield on
        except BaseException:
            print(on.logs())
            raise
        finally:
            platform_kit.end(on)


def _make_agents(cluster: Cluster, nodes: list[str]) -> None:
    """Make agents' pods without an address."""
    labels = {"app.kubernetes.io/name": "lifl-agent"}
    for name in nodes:
        spec = {"nodeName": name, "containers": [{"name": "agent", "image": "hollow"}]}
        cluster.create(
            POD, {"metadata": {"name": f"agent-{name}", "labels": labels}, "spec": spec}, SYSTEM
        )


def _start_controller(on: Platform, coordinator: str) -> tuple[float, str]:
    """Start it and the real node; return how many seconds its first look took, and its metrics."""
    port, metrics_port = platform_kit.free_port(), platform_kit.free_port()
    platform_kit.point_webhook(on.cluster, port)
    metrics = f"http://127.0.0.1:{metrics_port}/metrics"
    own = {"LIFL_COORDINATOR_URL": coordinator, "LIFL_METRICS_PORT": str(metrics_port)}
    began = time.monotonic()
    on.start_controller(port, **KEEP, **own)
    kube.wait_for(lambda: _look(metrics)[1], "the controller's first look", 120.0)
    took = time.monotonic() - began
    kube.wait_for(lambda: platform_kit.has_bundle(on.cluster), "the webhook's certificate")
    on.start_node(REAL_NODE, REAL_NUMBER, kubelet=False)
    log = on.controllers[0].log
    kube.wait_for(lambda: log.read_text().count("pool of") >= JOBS, "the jobs' pools", 120.0)
    time.sleep(2 * REST_SECONDS)
    return took, metrics


def _look(metrics: str) -> tuple[float, float]:
    """Return the seconds that all looks of the loop took, and their number."""
    try:
        with urllib.request.urlopen(metrics, timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return 0.0, 0.0
    found = dict(re.findall(r"^lifl_controller_look_seconds_(sum|count) (\S+)$", text, re.M))
    return float(found.get("sum", 0)), float(found.get("count", 0))


def _mean_look(metrics: str) -> float:
    total, number = _look(metrics)
    return total / max(number, 1.0)


def _list(cluster: Cluster) -> float:
    cache: Cache[PodView] = Cache(cluster, POD, pod_view)
    began = time.monotonic()
    cache.start()
    if not cache.wait(120.0):
        raise TimeoutError("the pods could not be listed")
    took = time.monotonic() - began
    cache.stop()
    return took


# -- one change ------------------------------------------------------------------------


class _Watching:
    """What the API server announces of the Deployment and of the pods that are made here."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        one = f"metadata.name={kube.AGGREGATOR}"
        self.deployment: Cache[Object] = Cache(
            cluster, DEPLOYMENT, dict, namespace=FUNCTIONS, fields=one
        )
        self.pods: Cache[PodView] = Cache(
            cluster, POD, pod_view, namespace=FUNCTIONS, labels=f"{MINE}=yes"
        )

    def __enter__(self) -> _Watching:
        for cache in (self.deployment, self.pods):
            cache.start()
            cache.wait(30.0)
        return self

    def __exit__(self, *_: object) -> None:
        self.deployment.stop()
        self.pods.stop()

    def aggregators(self) -> Object:
        found = self.deployment.get(kube.AGGREGATOR, FUNCTIONS)
        assert found is not None
        return found


def _change(watching: _Watching, told: kube.Coordinator, number: int) -> tuple[float, float]:
    """Make one change; return the milliseconds until the scale, and until the binding."""
    time.sleep(REST_SECONDS)
    before = watching.aggregators()["spec"]["replicas"]
    name, pod = f"new-{number}", f"{kube.AGGREGATOR}-new-{number}"
    began = time.monotonic()
    told.tell(kube.job(name, 1))
    scaled = kube.wait_for(
        lambda: (d := watching.aggregators())["spec"]["replicas"] > before and d, "the new scale"
    )
    scale = time.monotonic() - began
    body = kube.replica(scaled, pod, **{MINE: "yes"})
    watching.cluster.create(POD, body, FUNCTIONS)
    bound = kube.wait_for(
        lambda: (p := watching.pods.get(pod, FUNCTIONS)) and p.node and p, "the binding"
    )
    took = time.monotonic() - began
    if (bound.node, bound.job, scaled["spec"]["replicas"]) != (REAL_NODE, name, before + 1):
        raise RuntimeError(f"{pod} was bound to {bound.node} for {bound.job!r}: wrong")
    return scale * 1e3, took * 1e3
