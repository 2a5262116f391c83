"""The SDK and curl against a real local platform (plain-socket data plane)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifl.auth import mint_client_token
from lifl.cli.access import Access
from lifl.cli.jobs import submit_job
from lifl.client import FederatedClient, Round, upload
from lifl.client.http import HttpClient
from lifl.platform import running
from lifl.platform.paths import Paths
from lifl.update import Schema, iter_document

CURL = Path(__file__).parents[2] / "examples" / "curl" / "post-update.sh"
UP_SECONDS = 60.0
Arrays = dict[str, np.ndarray[Any, Any]]


def free_port() -> int:
    """A port that is free, with the one a hundred above it, which the coordinator takes."""
    for port in range(31_000, 32_000, 10):
        with socket.socket() as a, socket.socket() as b:
            try:
                a.bind(("127.0.0.1", port))
                b.bind(("127.0.0.1", port + 100))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


@pytest.fixture(scope="module")
def access() -> Iterator[Access]:
    with (
        tempfile.TemporaryDirectory(prefix="lifl-", dir="/tmp") as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("LIFL_HOME", home)
        paths = Paths(Path(home))
        running.detach(paths, ["--dataplane", "socket", "--port", str(free_port())], UP_SECONDS)
        try:
            yield Access(None, None)
        finally:
            running.down(paths)


Join = Callable[[str], FederatedClient]


def submit(access: Access, job: str, arrays: Arrays, *, rounds: int, clients: int) -> Join:
    """Submit a job that starts from ``arrays``; return how its clients join."""
    document = {
        "apiVersion": "lifl.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": job},
        "spec": {
            "rounds": rounds,
            "clients": {"perRound": clients, "selection": "all"},
            "pool": {"slots": 16},
        },
    }
    submit_job(access, document, b"".join(iter_document(arrays, Schema.of(arrays))))

    def join(client: str) -> FederatedClient:
        token = mint_client_token(access.key(job), job, client)
        return FederatedClient(access.url, job=job, client=client, token=token)

    return join


def latest(access: Access, job: str) -> tuple[int, Arrays]:
    with FederatedClient(
        access.url,
        job=job,
        client="reader",
        token=mint_client_token(access.key(job), job, "reader"),
    ) as fl:
        return fl.latest()


def test_every_precision_and_the_integer_rule(access: Access) -> None:
    """Floats: Σ n·w / Σ n in float32. Integers: the elementwise maximum."""
    start: Arrays = {"w": np.zeros(1000, np.float32), "bn.num_batches_tracked": np.array(0)}
    join = submit(access, "precisions", start, rounds=2, clients=3)
    weights = {"c1": (np.float32, 10), "c2": (np.float16, 30), "c3": (None, 60)}

    def take_part(client: str) -> int:
        dtype, n = weights[client]
        done = 0
        with join(client) as fl:
            for round in fl.rounds():
                value = round.model()["w"] + np.float32(n)
                tracked = round.number * 100 + n
                if dtype is None:
                    state: Any = {
                        "w": torch.from_numpy(value).bfloat16(),
                        "bn.num_batches_tracked": torch.tensor(tracked),
                    }
                else:
                    state = {
                        "w": value.astype(dtype),
                        "bn.num_batches_tracked": np.array(tracked),
                    }
                assert round.submit(state, num_samples=n).accepted
                done += 1
            assert fl.state == "done"
        return done

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(take_part, weights)) == [2, 2, 2]
    version, model = latest(access, "precisions")
    assert version == 2
    want = np.float32(0)
    for _ in range(2):
        terms = [
            10 * (want + np.float32(10)),
            30 * np.float32(np.float16(want + np.float32(30))),
            60 * torch.tensor(want + np.float32(60)).bfloat16().float().numpy(),
        ]
        want = np.float32(sum(terms) / 100)
    np.testing.assert_allclose(model["w"], np.full(1000, want), rtol=1e-6)
    assert model["bn.num_batches_tracked"] == 260


def test_curl_alone(access: Access) -> None:
    start: Arrays = {"w": np.arange(50, dtype=np.float32), "n": np.array(3)}
    join = submit(access, "curl", start, rounds=1, clients=1)
    with join("waiter") as fl:
        assert next(fl.rounds()).number == 1
    command = [str(CURL), access.url, "curl", "c1"]
    env = os.environ | {"LIFL_TOKEN": mint_client_token(access.key("curl"), "curl", "c1")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert '"serial"' in done.stdout
    token = mint_client_token(access.key("curl"), "curl", "waiter")
    poll = "/v1/jobs/curl/rounds/current?client=waiter&after=1&wait=20"
    assert HttpClient(access.url, token).json("GET", poll)["state"] == "done"
    with join("waiter") as fl:
        assert list(fl.rounds()) == []
        version, model = fl.latest()
    assert version == 1
    assert np.array_equal(model["w"], start["w"])
    late = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert late.returncode == 1
    assert "no work for c1 now" in late.stderr


def test_the_gateway_dies_in_the_middle_of_an_upload(
    access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: Arrays = {"w": np.zeros(4 << 20, np.float32)}
    join = submit(access, "dying", start, rounds=1, clients=2)
    whole = upload.Document.__iter__
    killed = threading.Event()

    def deadly(document: upload.Document) -> Iterator[bytes | memoryview]:
        for i, piece in enumerate(whole(document)):
            if i == 8 and not killed.is_set():
                killed.set()
                state = running.need(access.paths)
                os.kill(state["processes"]["gateway-0"]["pid"], signal.SIGKILL)
            yield piece

    monkeypatch.setattr(upload.Document, "__iter__", deadly)

    def take_part(value: int) -> list[Round]:
        done = []
        with join(f"c{value}") as fl:
            for round in fl.rounds():
                new = np.full(4 << 20, value, np.float32)
                assert round.submit({"w": new}, num_samples=value).accepted
                done.append(round)
        return done

    with ThreadPoolExecutor() as pool:
        assert [len(done) for done in pool.map(take_part, [1, 3])] == [1, 1]
    assert killed.is_set()
    version, model = latest(access, "dying")
    assert version == 1
    np.testing.assert_allclose(model["w"], np.full(4 << 20, (1 + 9) / 4, np.float32))
