"""Whole jobs at a real API server: planned, scaled, bound, summed, and back to zero pods.

Client *i* adds 2**i, so a mean tells which updates it holds and how often: with 4 clients of one
sample each it is 15/4 exactly, in any order of summing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.clients.api import Object
from controller.clients.kinds import EVENT
from controller.replica import LOST_LEASE
from lifl import naming

from . import hollow
from .apiserver import ApiServer
from .jobs_kit import until
from .platform_kit import FUNCTIONS, Job, Platform, platform

CLIENTS = 4

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="hollow nodes put pods in cgroups: root only"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def lifl(kube_assets: Path) -> Iterator[Platform]:
    with ApiServer(kube_assets) as server, platform(server, nodes=2, controllers=2) as found:
        until(lambda: len(found.gateways()) == 2 or None, "a gateway on each node", 90.0)
        yield found


def bound(pods: list[Object]) -> list[Object] | None:
    return pods if all("nodeName" in p["spec"] for p in pods) else None


def sums(job: Job, rounds: int) -> None:
    """Every client saw the same model in each round, and each update is in it once."""
    step = job.mean()
    assert job.models == {r: {(r - 1) * step} for r in range(1, rounds + 1)}
    status = until(
        lambda: s if (s := job.status()).get("completionTime") else None, "the status to end"
    )
    assert {c["type"]: c["status"] for c in status["conditions"]}["Complete"] == "True"
    assert status["version"] == rounds


def test_a_job_is_carried_through_and_its_aggregators_are_gone_afterwards(lifl: Platform) -> None:
    job = lifl.submit("whole", CLIENTS, 3)
    job.hold.clear()
    job.start()
    until(lambda: len(lifl.pods()) >= 2 or None, "the aggregators' pods")
    pods = until(lambda: bound(lifl.pods()), "them to be bound")
    for pod in pods:
        annotations = pod["metadata"]["annotations"]
        assert annotations[naming.ANNOTATION_JOB] == "whole"
        assert annotations[naming.ANNOTATION_NAME].startswith("whole-agg-")
        assert annotations[naming.ANNOTATION_REGISTRATION]
        assert pod["spec"]["schedulerName"] == naming.SCHEDULER
    assert {p["spec"]["nodeName"] for p in pods} in ({"node-0"}, {"node-1"})
    job.hold.set()
    job.finish()
    sums(job, 3)
    created = lifl.deployments.created if lifl.deployments else 0
    until(lambda: not lifl.pods(), "no aggregators' pods any more")
    assert lifl.replicas("lifl-aggregator") == 0
    events, _ = lifl.cluster.list(EVENT, FUNCTIONS)
    reasons = {e["reason"] for e in events}
    assert {"ScaledUp", "ScaledDown", "Scheduled"} <= reasons, reasons
    assert created


def test_the_gateways_are_one_a_node(lifl: Platform) -> None:
    nodes = [p["spec"]["nodeName"] for p in lifl.pods("gateway")]
    assert sorted(nodes) == ["node-0", "node-1"]


def test_a_killed_leader_is_followed_and_nothing_is_lost(lifl: Platform) -> None:
    job = lifl.submit("leader", CLIENTS, 3)
    job.start()
    until(lambda: len(job.models) >= 1 or None, "the first round")
    name = lifl.leader()
    victim = lifl.controllers[lifl.number_of_leader()]
    victim.end(signal.SIGKILL)
    lifl.start_controller(victim.webhook_port)  # as the kubelet does; the other one leads
    job.finish(180.0)
    sums(job, 3)
    assert lifl.leader() != name


def test_rounds_go_on_while_the_api_server_is_away(lifl: Platform) -> None:
    """A leader that cannot renew its lease ends after ten seconds; the job waits for the next."""
    rounds = 1000
    job = lifl.submit("away", CLIENTS, rounds)
    job.start()
    until(lambda: job.models.get(2), "the second round")
    job.hold.clear()
    until(lambda: all(map(hollow.is_ready, lifl.pods())), "all aggregators to be there")
    leader = lifl.controllers[lifl.number_of_leader()]
    lifl.server.stop()
    try:
        begun = len(job.models)
        job.hold.set()
        until(lambda: len(job.models) > begun + 3, "rounds without the API server", 9.0)
        assert leader.process.wait(30) == LOST_LEASE
        until_then = len(job.models)
    finally:
        lifl.server.start()
    lifl.start_controller(leader.webhook_port)
    until(lambda: len(job.models) > until_then + 3, "rounds under the next leader", 60.0)
    lifl.delete_job(job)
    job.finish(60.0)
    assert job.models == {r: {(r - 1) * job.mean()} for r in job.models}
