"""The same image without an agent: payloads by value over HTTP, under gunicorn."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lifl.update import Schema, iter_document, parse_header, views

ELEMENTS = 2_000_000
SCHEMA = Schema.of({"w": np.zeros(ELEMENTS, np.float32)})


@pytest.fixture
def port(tmp_path) -> Iterator[int]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        number = s.getsockname()[1]
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LIFL_NAME": "agg-1",
        "PORT": str(number),
    }
    command = (
        "-m gunicorn -c python:functions.aggregator.gunicorn_conf functions.aggregator.app:app"
    )
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command.split()], env=env, cwd="/", stdout=out, stderr=out
        )
    deadline = time.monotonic() + 20
    while _ask(number, "GET", "/readyz")[0] != 200:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    yield number
    process.terminate()
    assert process.wait(10) == 0


def _ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    except ConnectionRefusedError:
        return 0, {}, b""
    finally:
        connection.close()


def _update(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(ELEMENTS, np.float32)


def test_leaves_and_top_by_value(port):
    samples = [3, 50, 7, 11]
    for i, n in enumerate(samples):
        body = b"".join(bytes(p) for p in iter_document({"w": _update(i)}, SCHEMA))
        status, headers, reply = _ask(
            port,
            "POST",
            f"/v1/partials/leaf-{i % 2}?goal=2",
            body,
            LIFL_Num_Samples=str(n),
            Content_Type="application/vnd.safetensors",
        )
        assert status == (200 if i > 1 else 202), reply
        if status == 200:
            status, headers, reply = _ask(
                port,
                "POST",
                "/v1/partials/top?goal=2&final=1",
                reply,
                LIFL_Weight=headers["LIFL-Weight"],
                Content_Type="application/vnd.safetensors",
            )
    assert status == 200
    assert float(headers["LIFL-Num-Samples"]) == sum(samples)
    got = views(reply, parse_header(reply, len(reply)))["w"]
    expected = sum(n * _update(i).astype(np.float64) for i, n in enumerate(samples)) / sum(samples)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_body_that_ends_early(port):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.safetensors\r\n"
            b"LIFL-Num-Samples: 1\r\nContent-Length: 1000\r\n\r\nshort"
        )
        s.shutdown(socket.SHUT_WR)
        answer = s.makefile("rb").read()
    assert b"400" in answer.split(b"\r\n")[0], answer
    assert b'"code": "truncated"' in answer
    assert _ask(port, "GET", "/healthz")[0] == 200
