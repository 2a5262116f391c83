"""Parts of a real cluster that go in the middle of a round: no update is lost or counted twice."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest

from controller.clients.api import Cluster
from controller.clients.kinds import LEASE, POD
from tests.cluster.figures import Figures
from tests.cluster.install import SYSTEM, Installation, pod_ready
from tests.cluster.jobs import Job
from tests.cluster.kube import capacity, query, until
from tests.cluster.watch import PodWatch

CLIENTS, ROUNDS = 8, 5
AWAY_SECONDS = 60.0

pytestmark = pytest.mark.platforms("knative", "kubernetes")


def halfway(lifl: Installation, name: str, rounds: int = ROUNDS) -> Job:
    """Return a job of which the second round has half of its updates."""
    job = Job(lifl, name, clients=CLIENTS, rounds=rounds)
    job.early, job.held = CLIENTS // 2, 2
    job.submit().start()
    job.wait_for_round(2)
    until(lambda: len(job.accepted.get(2, ())) >= job.early, "half of the updates")
    return job


@pytest.fixture
def cluster() -> Cluster:
    return Cluster.connect()


@pytest.mark.parametrize("whose", ["aggregators", "coordinator"])
def test_an_agent_is_replaced_in_the_middle_of_a_round(
    lifl: Installation, cluster: Cluster, figures: Figures, whose: str
) -> None:
    """On the coordinator's node, which has no other part of the tree, all goes by its agent."""
    (home,) = {p["spec"]["nodeName"] for p in lifl.pods("coordinator")}
    nodes = {n["metadata"]["name"] for n in query("get", "nodes")["items"]}
    if len(nodes) < 2:
        pytest.skip("one node only")
    with capacity({n: 0.5 if n == home else 20.0 for n in nodes}):
        job = halfway(lifl, f"agent-{whose}")
        used = {p["spec"]["nodeName"] for p in lifl.pods() if _seat_of(p, job)}
        assert home not in used
        node = home if whose == "coordinator" else used.pop()
        old = _agent(node)
        cluster.delete(POD, old["metadata"]["name"], SYSTEM)
        began = time.monotonic()
        job.hold.set()
        until(lambda: _agent(node, but=old["metadata"]["uid"]), "the next agent")
        ready = _since(began)
        job.finish()
    figures.note(
        lifl.platform, f"agent on the node of the {whose} deleted: next one ready (s)", ready
    )
    figures.note(
        lifl.platform, f"agent on the node of the {whose} deleted: rounds (s)", _rounded(job)
    )
    assert all(row["attempts"] == 1 for row in job.history()), job.history()


def _agent(node: str, but: str = "") -> dict[str, Any]:
    """Return the ready agent's pod of a node; {} if it is not there, or is the one of UID
    ``but``."""
    found = query("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/name=lifl-agent")["items"]
    here = [a for a in found if a["spec"].get("nodeName") == node and pod_ready(a)]
    return next((a for a in here if a["metadata"]["uid"] != but), {})


def _seat_of(pod: dict[str, Any], job: Job) -> bool:
    return bool(pod["metadata"]["annotations"].get("lifl.dev/job") == job.name)


@pytest.mark.parametrize("grace", [0, 30])
def test_an_aggregator_goes_in_the_middle_of_a_round(
    lifl: Installation, cluster: Cluster, figures: Figures, grace: int
) -> None:
    """Without grace it dies with what it summed; with it, it hands that on."""
    with PodWatch(lifl.namespace) as watch:
        job = halfway(lifl, f"killed{grace}")
        pods = [p for p in watch.of(job.name) if p.gone is None]
        victim = pods[0]
        cluster.delete(POD, victim.name, lifl.namespace, grace=grace)
        job.hold.set()
        job.finish()
        name = victim.annotations["lifl.dev/name"]
    print(f"seat {name}: {len(watch.of(job.name))} pods")
    figures.note(lifl.platform, f"aggregator deleted, grace {grace} s: rounds (s)", _rounded(job))


def test_the_leading_controller_goes_in_the_middle_of_a_round(
    lifl: Installation, cluster: Cluster, figures: Figures
) -> None:
    job = halfway(lifl, "leader")

    def leader() -> str:
        holder = cluster.get(LEASE, "lifl-controller", SYSTEM)["spec"]["holderIdentity"]
        return str(holder).rpartition("_")[0]

    old = leader()
    cluster.delete(POD, old, SYSTEM)
    began = time.monotonic()
    job.hold.set()
    until(lambda: leader() not in ("", old), "another leader")
    figures.note(lifl.platform, "leading controller's pod deleted: next leader (s)", _since(began))
    job.finish()
    figures.note(lifl.platform, "leading controller's pod deleted: rounds (s)", _rounded(job))


def test_the_api_server_is_away_for_a_minute_in_the_middle_of_a_round(
    lifl: Installation, figures: Figures
) -> None:
    """What is planned goes on; what needs a new plan waits until it is back."""
    settings = lifl.settings
    if not settings.stop_apiserver:
        pytest.skip("LIFL_CLUSTER_APISERVER_STOP and _START are not set")
    job = halfway(lifl, "away", rounds=40)
    job.pace = 2.0  # longer than the API server is away
    subprocess.run(settings.stop_apiserver, shell=True, check=True)
    try:
        job.hold.set()
        until(lambda: 2 in job.accepted and len(job.accepted[2]) == CLIENTS, "the round to fill")
        time.sleep(AWAY_SECONDS)
        meanwhile = max(job.models)
        assert meanwhile > 2, "rounds that have a plan go on"
    finally:
        subprocess.run(settings.start_apiserver, shell=True, check=True)
    began = time.monotonic()
    job.finish(300.0)
    figures.note(lifl.platform, "API server away for 60 s: round it reached meanwhile", meanwhile)
    figures.note(lifl.platform, "API server back: the job's 40 rounds over (s)", _since(began))
    until(lifl.is_ready, "everything to be ready again", 120.0)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)


def _rounded(job: Job) -> list[float]:
    return [round(s, 2) for s in job.round_seconds()]
