"""Whole jobs on a real cluster: real pods, a real kernel data plane, clients outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from lifl.auth import mint_client_token, mint_submitter_token
from lifl.client import HttpClient
from tests.cluster.figures import Figures, histogram, page, spread
from tests.cluster.install import SYSTEM, Installation
from tests.cluster.jobs import Job, apply_job, entries, has_model, key_of, none_left, submit_config
from tests.cluster.kube import REPO, capacity, kubectl, query, until
from tests.cluster.watch import PodWatch

DIGITS = REPO / "examples/digits"
CLIENTS, ROUNDS = 10, 5
ZERO_SECONDS = 90.0
TARGET = 0.95


def test_the_agents_have_two_capabilities_and_the_kernel_carries_descriptors(
    lifl: Installation,
) -> None:
    agents = query("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/name=lifl-agent")["items"]
    assert len(agents) == len(query("get", "nodes")["items"])
    for agent in agents:
        (container,) = agent["spec"]["containers"]
        context = container["securityContext"]
        assert not context.get("privileged")
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]}
        env = {e["name"]: e.get("value") for e in container["env"]}
        assert env["LIFL_DATAPLANE"] == "ebpf"
        assert not agent["spec"].get("hostNetwork")
        log = kubectl("-n", SYSTEM, "logs", agent["metadata"]["name"])
        assert "ebpf data plane" in log, log
        told = page(SYSTEM, agent["metadata"]["name"], 9464)
        assert "lifl_agent_registrations_total" in told


def test_a_job_runs_to_its_end_from_zero_to_zero_and_again(
    lifl: Installation, figures: Figures
) -> None:
    """Twice: the second starts from no pod for certain."""
    made: list[int] = []
    ready: list[float] = []
    first: list[float] = []
    wait: list[float] = []
    cold: list[float] = []
    zero: list[float] = []
    rounds: list[float] = []
    for _ in range(2):
        until(none_left(lifl), "no aggregators' pods at the beginning", ZERO_SECONDS)
        with PodWatch(lifl.namespace) as watch:
            began = time.time()
            job = Job(lifl, "whole", clients=CLIENTS, rounds=ROUNDS).submit()
            started = time.time()
            job.start().finish()
            ended = time.time()
            until(none_left(lifl), "no aggregators' pods any more", ZERO_SECONDS)
            zero.append(time.time() - ended)
        pods = watch.of(job.name)
        assert pods
        assert {p.containers for p in pods} == {1}, "an aggregator's pod has one container"
        assert all(p.annotations["lifl.dev/name"].startswith(job.name) for p in pods)
        made.append(len(pods))
        cold += [p.ready - p.made for p in pods if p.ready]
        ready.append(min(p.ready for p in pods if p.ready) - began)
        first.append(min(min(times) for times in job.accepted.values()) - began)
        wait.append(min(min(times) for times in job.accepted.values()) - started)
        rounds += job.round_seconds()[1:]
    figures.note(lifl.platform, "pods made for a job of 10 clients and 5 rounds", made)
    figures.note(lifl.platform, "containers in an aggregator's pod", 1)
    figures.note(lifl.platform, "aggregator's pod: made to ready (s)", spread(cold))
    figures.note(lifl.platform, "job's object made: first aggregator ready (s)", spread(ready))
    figures.note(lifl.platform, "job's object made: first update accepted (s)", spread(first))
    figures.note(lifl.platform, "clients started: first update accepted (s)", spread(wait))
    figures.note(lifl.platform, "from the job's end to no pod (s)", spread(zero))
    figures.note(lifl.platform, "round of 10 clients, 1 KB (s)", spread(rounds))
    _controller_figures(lifl, figures)


def _controller_figures(lifl: Installation, figures: Figures) -> None:
    pods = query("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/name=lifl-controller")
    pages = "\n".join(page(SYSTEM, p["metadata"]["name"], 9466) for p in pods["items"])
    for name in ("webhook_seconds", "scheduler_binding_seconds", "scheduler_deciding_seconds"):
        figures.note(lifl.platform, name, histogram(pages, f"lifl_{name}"))
    assert histogram(pages, "lifl_webhook_seconds")["count"] > 0
    assert histogram(pages, "lifl_scheduler_binding_seconds")["count"] > 0


def test_the_digits_are_learned(lifl: Installation, figures: Figures, tmp_path: Path) -> None:
    """Ten processes train on this machine; the cluster sums what they learned."""
    document = yaml.safe_load((DIGITS / "job.yaml").read_text())
    name, spec = f"digits-{os.getpid()}", document["spec"]
    submit_config(lifl, name, _initial_model())
    spec["model"] = {"configMap": {"name": f"{name}-model", "key": "model"}}
    apply_job(lifl, name, spec)
    key = key_of(lifl, name)
    until(lambda: has_model(lifl, name), "the job to have its model")
    ways = entries(lifl)
    began = time.time()
    running: list[subprocess.Popen[bytes]] = []
    try:
        with PodWatch(lifl.namespace) as watch:
            for i in range(1, 11):
                way = ways[i % len(ways)]
                token = mint_client_token(key, name, f"c{i}")
                log = tmp_path / f"c{i}.log"
                running.append(_process("client", way, name, token, log, "--client", f"c{i}"))
            token = mint_submitter_token(key, name)
            log = tmp_path / "evaluate.log"
            running.append(_process("evaluate", ways[0], name, token, log, "--follow"))
            deadline = time.monotonic() + 420
            for process in running:
                code = process.wait(max(1.0, deadline - time.monotonic()))
                assert code == 0, _logs(tmp_path)
    finally:
        for process in running:
            process.kill()
            process.wait()
    seconds = time.time() - began
    http = HttpClient(ways[0].url, mint_submitter_token(key, name), ingress=ways[0].ingress)
    history = http.json("GET", f"/v1/jobs/{name}/history")["rounds"]
    http.close()
    assert len(history) == spec["rounds"]
    assert all(row["accepted"] == row["aggregated"] for row in history)
    accuracy = max(row["accuracy"] for row in history[-3:] if row["accuracy"] is not None)
    status = _status(lifl, name)
    figures.note(lifl.platform, "digits: accuracy", round(accuracy, 4))
    figures.note(lifl.platform, "digits: seconds", round(seconds, 1))
    figures.note(lifl.platform, "digits: pods made", len(watch.of(name)))
    assert status["phase"] == "Complete", status
    assert accuracy >= TARGET, history


def _initial_model() -> bytes:
    sys.path.insert(0, str(DIGITS))
    try:
        import model as digits

        torch.manual_seed(0)
        made: bytes = safetensors.torch.save(digits.build().state_dict())
        return made
    finally:
        sys.path.remove(str(DIGITS))


def _status(lifl: Installation, name: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = query("-n", lifl.namespace, "get", "fj", name)["status"]
        return found if found.get("completionTime") else None

    return until(ended, "the object to say that it is over")


def _process(
    program: str, way: Any, job: str, token: str, log: Path, *more: str
) -> subprocess.Popen[bytes]:
    arguments = ["--gateway", way.url, "--job", job, *more]
    env = os.environ | {
        "LIFL_TOKEN": token,
        "LIFL_INGRESS": way.ingress,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPO),
    }
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, str(DIGITS / f"{program}.py"), *arguments],
            env=env,
            stdout=out,
            stderr=out,
        )


def _logs(folder: Path) -> str:
    return "\n".join(f"== {f.name}\n{f.read_text()[-800:]}" for f in folder.glob("*.log"))


@pytest.mark.platforms("knative", "kubernetes")
def test_two_jobs_share_two_nodes(lifl: Installation, figures: Figures) -> None:
    """A node's capacity of 4 updates spreads a job of 8 clients over two."""
    nodes = [n["metadata"]["name"] for n in query("get", "nodes")["items"]]
    if len(nodes) < 2:
        pytest.skip("one node only")
    with capacity(dict.fromkeys(nodes, 4.0)), PodWatch(lifl.namespace) as watch:
        jobs = [Job(lifl, name, clients=8, rounds=4).submit() for name in ("left", "right")]
        for job in jobs:
            job.start()
        for job in jobs:
            job.finish()
    used = {job.name: sorted({p.node for p in watch.of(job.name)}) for job in jobs}
    what = "nodes used by two jobs of 8 clients, capacity 4"
    figures.note(lifl.platform, what, list(used.values()))
    figures.note(
        lifl.platform, "pods made for these two jobs", [len(watch.of(j.name)) for j in jobs]
    )
    assert len(set().union(*used.values())) >= 2, used
    assert {p.containers for p in watch.seen.values()} == {1}
