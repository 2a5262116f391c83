"""An aggregator where queue-proxy was: probes, figures under load, an end that loses nothing."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from lifl.update import Schema, iter_document

SCHEMA = Schema.of({"w": np.zeros(5000, np.float32)})
BODY = b"".join(bytes(p) for p in iter_document({"w": np.ones(5000, np.float32)}, SCHEMA))
HEADERS = {"Content-Type": "application/vnd.safetensors", "LIFL-Num-Samples": "1"}
DRAIN = 2.0
PATIENCE = 20.0


def until(ask: Callable[[], object]) -> object:
    deadline = time.monotonic() + PATIENCE
    while not (answer := ask()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return answer


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str):
    """Return status, headers and body; status 0 if nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    except ConnectionRefusedError:
        return 0, {}, b""
    finally:
        connection.close()


@dataclass
class Pod:
    process: subprocess.Popen[bytes]
    port: int
    stats_port: int
    log: Path

    def stat(self) -> tuple[str, dict[int, float]]:
        """Return the pod's name and the message's numbers, by field."""
        status, headers, message = ask(self.stats_port, "GET", "/metrics")
        assert (status, headers["Content-Type"]) == (200, "application/protobuf")
        assert message[0] == 0x0A
        name = message[2 : 2 + message[1]].decode()
        found = dict.fromkeys(range(2, 7), 0.0)
        rest = message[2 + message[1] :]
        for at in range(0, len(rest), 9):
            number, value = struct.unpack("<Bd", rest[at : at + 9])
            assert number & 7 == 1
            found[number >> 3] = value
        return name, found

    def numbers(self) -> list[float]:
        """Return concurrency, proxied concurrency, requests/s, proxied requests/s."""
        found = self.stat()[1]
        return [found[i] for i in range(2, 6)]


@pytest.fixture(params=[0.0])
def pod(request, tmp_path) -> Iterator[Pod]:
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        port, stats_port = a.getsockname()[1], b.getsockname()[1]
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PORT": str(port),
        "LIFL_STATS_PORT": str(stats_port),
        "LIFL_DRAIN_SECONDS": str(request.param),
        "SERVING_POD": "aggregator-00001-deployment-x",
    }
    command = (
        "-m gunicorn -c python:functions.aggregator.gunicorn_conf functions.aggregator.app:app"
    )
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command.split()], env=env, cwd="/", stdout=out, stderr=out
        )
    made = Pod(process, port, stats_port, log)
    try:
        until(lambda: ask(port, "GET", "/readyz")[0] == 200)
        until(lambda: ask(stats_port, "GET", "/metrics")[0] == 200)
        yield made
        process.terminate()
        assert process.wait(10) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


class Upload:
    """A request that is in the function for as long as the test wants."""

    def __init__(self, port: int, **headers: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        lines = {"Host": "10.0.0.9:8012", "Content-Length": str(len(BODY))} | HEADERS
        lines |= {k.replace("_", "-"): v for k, v in headers.items()}
        head = "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        self._socket.sendall(f"POST / HTTP/1.1\r\n{head}\r\n".encode() + BODY[:1000])

    def finish(self) -> int:
        """Send the rest; return the status."""
        self._socket.sendall(BODY[1000:])
        answer = http.client.HTTPResponse(self._socket, method="POST")
        answer.begin()
        document = answer.read()
        self._socket.close()
        assert len(document) == len(BODY) or answer.status != 200
        return answer.status


def test_probes_and_the_stat_message(pod):
    status, _, body = ask(pod.port, "GET", "/", K_Network_Probe="queue")
    assert (status, body) == (200, b"queue")
    status, _, body = ask(pod.port, "GET", "/healthz", K_Network_Probe="queue")
    assert (status, body) == (200, b"queue")
    assert ask(pod.port, "GET", "/", K_Network_Probe="activator")[0] == 400
    assert ask(pod.port, "GET", "/")[0] == 405, "without the header it is the function's"
    name, found = pod.stat()
    assert name == "aggregator-00001-deployment-x"
    assert found[6] > 0


def test_the_figures_match_the_load(pod):
    requests = 11  # more than there are threads
    direct = [Upload(pod.port) for _ in range(requests)]
    until(lambda: pod.numbers() == [requests, 0, 0, 0])
    assert {u.finish() for u in direct} == {200}
    until(lambda: pod.numbers()[0] == 0)
    through = [Upload(pod.port, K_Proxy_Request="activator") for _ in range(requests)]
    until(lambda: pod.numbers() == [requests, requests, 0, 0])
    assert {u.finish() for u in through} == {200}
    until(lambda: pod.numbers() == [0, 0, 0, 0])


def test_requests_per_second(pod):
    begun = time.monotonic()
    sent = 0
    best = (0.0, 0.0)
    while time.monotonic() < begun + 2.5:
        assert ask(pod.port, "POST", "/", BODY, **HEADERS, K_Proxy_Request="activator")[0] == 200
        ask(pod.port, "GET", "/readyz", User_Agent="kube-probe/1.36")
        sent += 1
        numbers = pod.numbers()
        best = max(best, (numbers[2], numbers[3]))
    assert best[0] == best[1]
    assert 0.5 * sent / 2.5 <= best[0] <= 2 * sent / 2.5, (best, sent)


@dataclass
class Client:
    """Sends one request after the other until the door is closed."""

    port: int
    keep: bool
    answers: list[int] = field(default_factory=list)
    troubles: list[tuple[float, str]] = field(default_factory=list)
    refused_at: float = 0.0

    def run(self) -> None:
        connection = None
        while not self.refused_at:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
                connection.auto_open = 0
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    self.refused_at = time.monotonic()
                    return
                except ConnectionResetError as e:  # the door closed between its two packets
                    self.troubles.append((time.monotonic(), repr(e)))
                    connection = None
                    continue
            try:
                connection.request("POST", "/", BODY, HEADERS)
                answer = connection.getresponse()
                answer.read()
                self.answers.append(answer.status)
                ended = answer.will_close
            except (OSError, http.client.HTTPException) as e:
                self.troubles.append((time.monotonic(), repr(e)))
                ended = True
            if ended or not self.keep:
                connection.close()
                connection = None


@pytest.mark.parametrize("pod", [DRAIN], indirect=True)
def test_sigterm_under_load_loses_no_request(pod):
    clients = [Client(pod.port, keep) for keep in (True, True, False, False)]
    threads = [threading.Thread(target=c.run) for c in clients]
    for t in threads:
        t.start()
    until(lambda: all(len(c.answers) > 20 for c in clients))
    inside = [Upload(pod.port), Upload(pod.port)]
    assert ask(pod.port, "GET", "/readyz")[0] == 200

    asked = time.monotonic()
    pod.process.terminate()
    until(lambda: ask(pod.port, "GET", "/readyz")[0] == 503)
    assert ask(pod.port, "GET", "/", K_Network_Probe="queue")[0] == 503
    assert time.monotonic() - asked < DRAIN / 2, "readiness says so at once"
    assert ask(pod.port, "GET", "/healthz")[0] == 200
    begun_while_draining = [Upload(pod.port)]
    before = [len(c.answers) for c in clients]
    until(lambda: pod.numbers()[0] >= 3)  # figures are there to the end

    for t in threads:
        t.join(PATIENCE)
    assert all(len(c.answers) > n + 20 for c, n in zip(clients, before, strict=True))
    assert {s for c in clients for s in c.answers} == {200}
    assert all(DRAIN <= c.refused_at - asked < DRAIN + 1 for c in clients)
    # Connections made in the one moment when the door closes may be reset; none before.
    troubles = [t for c in clients for t in c.troubles]
    assert all(at - asked >= DRAIN for at, _ in troubles), troubles
    assert all(len(c.troubles) <= 1 for c in clients), troubles
    assert not troubles or max(troubles)[0] - min(troubles)[0] < 0.05, troubles

    assert pod.process.poll() is None, "it waits for what is in flight"
    worker = psutil.Process(pod.process.pid).children()[0]
    before, begun = worker.cpu_times(), time.monotonic()
    time.sleep(0.5)
    after = worker.cpu_times()
    used = after.user + after.system - before.user - before.system
    assert used < 0.5 * (time.monotonic() - begun), "it waits without turning round and round"
    assert [u.finish() for u in inside + begun_while_draining] == [200] * 3
    assert pod.process.wait(10) == 0


@pytest.mark.parametrize("pod", [DRAIN], indirect=True)
def test_an_idle_one_ends_when_the_drain_is_over(pod):
    asked = time.monotonic()
    pod.process.terminate()
    assert pod.process.wait(10) == 0
    assert DRAIN <= time.monotonic() - asked < DRAIN + 1.5
    with (
        contextlib.suppress(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", pod.stats_port)),
    ):
        raise AssertionError("the stats port is still open")
