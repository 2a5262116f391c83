"""A FederatedJob from its creation to its end, on the whole of a local platform.

Everything is real: an API server, the operator, and gateway, coordinator, controller, agent
and aggregators as processes of this machine; two clients train by the SDK.
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from controller.clients.api import Cluster
from controller.clients.kinds import CONFIG_MAP
from lifl.auth import mint_client_token, mint_submitter_token
from lifl.client import FederatedClient, Retry
from lifl.client.http import HttpClient
from lifl.platform import doctor, running
from lifl.platform.paths import Paths

from .jobs_kit import MODEL, Rig, install, rig, until

ROUNDS = 3
CLIENTS = ("c1", "c2")


@pytest.fixture(scope="module")
def api(cluster: Path) -> Iterator[Cluster]:
    connected = Cluster.connect(cluster)
    install(connected)
    yield connected
    connected.close()


def free_port() -> int:
    """Return a port that is free, and so is the one a hundred above, the coordinator's."""
    for _ in range(100):
        port = random.randrange(10_000, 32_000)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for wanted in (port, port + 100):
                held.enter_context(socket.socket()).bind(("127.0.0.1", wanted))
            return port
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def platform() -> Iterator[Paths]:
    home = Path(tempfile.mkdtemp(prefix="lifl-kube-jobs-", dir="/tmp"))
    home.chmod(0o711)
    before = dict(os.environ)
    os.environ |= {"LIFL_HOME": str(home), "LIFL_KEEP_SECONDS": "1"}
    paths = Paths(home)
    dataplane = doctor.default_dataplane()[0]
    arguments = ["--nodes", "1", "--dataplane", dataplane, "--port", str(free_port())]
    try:
        running.detach(paths, arguments, 60.0)
        yield paths
    finally:
        os.environ.clear()
        os.environ.update(before)
        running.down(paths)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def jobs(api: Cluster, platform: Paths) -> Iterator[Rig]:
    with rig(api, running.need(platform)["coordinator_url"], platform.secret()) as made:
        body = {
            "metadata": {"name": "models"},
            "binaryData": {"digits": base64.b64encode(MODEL).decode()},
        }
        api.create(CONFIG_MAP, body, made.namespace)
        yield made


def key_of(jobs: Rig, name: str) -> bytes:
    secret = until(lambda: jobs.key(name), "the job's key")
    return bytes.fromhex(base64.b64decode(secret["data"]["auth_key"]).decode())


def train(url: str, job: str, client: str, key: bytes) -> None:
    """Take part until the job is over: each round adds one to every weight."""
    token = mint_client_token(key, job, client)
    retry = Retry(patience=60.0)
    with FederatedClient(url, job=job, client=client, token=token, retry=retry) as fl:
        for work in fl.rounds():
            arrays = {name: np.array(values) + 1 for name, values in work.model().items()}
            work.submit(arrays, num_samples=10)


def run(jobs: Rig, platform: Paths, name: str) -> None:
    url = str(running.need(platform)["url"])
    jobs.create(
        name,
        rounds=ROUNDS,
        model={"configMap": {"name": "models", "key": "digits"}},
        clients={"perRound": len(CLIENTS), "names": list(CLIENTS)},
        deadlineSeconds=...,
        clientConfig=...,
    )
    key = key_of(jobs, name)
    until(lambda: jobs.status(name).get("phase") == "Running", "the job to run")
    threads = [threading.Thread(target=train, args=(url, name, c, key)) for c in CLIENTS]
    for thread in threads:
        thread.start()
    jobs.wait_phase(name, "Complete")
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    submitter = HttpClient(url, mint_submitter_token(key, name))
    rating = {"version": ROUNDS, "accuracy": 0.9805}
    submitter.json("POST", f"/v1/jobs/{name}/evaluations", rating)
    submitter.close()
    until(lambda: jobs.status(name).get("accuracyPercent") == "98.05%", "the accuracy")


def test_a_job_completes_is_deleted_and_made_again(jobs: Rig, platform: Paths) -> None:
    run(jobs, platform, "digits")
    done = jobs.status("digits")
    shown = {k: done[k] for k in ("round", "updates", "version", "attempt", "aggregators")}
    assert shown == {"round": "3/3", "updates": "2/2", "version": 3, "attempt": 1, "aggregators": 0}
    conditions = {c["type"]: c["status"] for c in done["conditions"]}
    assert conditions == {
        "Submitted": "True",
        "ModelReceived": "True",
        "Running": "False",
        "Complete": "True",
        "Failed": "False",
    }
    told = {reason for reason, _, _ in jobs.events("digits")}
    assert {"Submitted", "ModelReceived", "Complete"} <= told
    assert all(kind == "Normal" for _, kind, _ in jobs.events("digits"))
    _, rows = jobs.table()
    assert rows["digits"][1:7] == ["3/3", "2/2", 0, 0, "98.05%", "Complete"]

    first = jobs.get("digits")["metadata"]["uid"]
    jobs.delete("digits")
    jobs.wait_gone("digits")
    assert jobs.key("digits") is None
    run(jobs, platform, "digits")
    assert jobs.get("digits")["metadata"]["uid"] != first
    assert jobs.status("digits")["version"] == ROUNDS
