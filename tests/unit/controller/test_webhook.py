"""The webhook's server: TLS that changes, limits, and an end that cuts nobody off."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from controller import certificates, webhook
from controller.webhook import MAX_BYTES, Webhook
from controller.webhook_metrics import WebhookMetrics
from lifl.errors import Unavailable

from .cluster import pods
from .cluster.test_admission import review

NOW = datetime.datetime.now(datetime.UTC)
WANT = certificates.wanted("lifl-webhook", "lifl-system")[0]
HOST = "lifl-webhook.lifl-system.svc"


class Served:
    """A webhook with an authority, and a client that trusts that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = certificates.make_authority(NOW)
        self.context: ssl.SSLContext | None = self.issue()
        self.registry = CollectorRegistry()
        self.webhook = Webhook(("127.0.0.1", 0), self._context, WebhookMetrics(self.registry))
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.load_verify_locations(cadata=self.authority.certificate.decode())
        self.client.verify_flags |= ssl.VERIFY_X509_STRICT

    def issue(self) -> ssl.SSLContext:
        pair = certificates.issue(NOW, self.authority, WANT)
        (self.folder / "pem").write_bytes(pair.certificate + pair.key)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.folder / "pem")
        return made

    def _context(self) -> ssl.SSLContext:
        if self.context is None:
            raise Unavailable("no certificate yet")
        return self.context

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.webhook.port), timeout=20)

    @contextlib.contextmanager
    def connect(self) -> Iterator[ssl.SSLSocket]:
        with self.raw() as raw, self.client.wrap_socket(raw, server_hostname=HOST) as tls:
            yield tls

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str):
        with self.connect() as tls:
            lines = {"Host": HOST, "Content-Type": "application/json"}
            if body is not None:
                lines["Content-Length"] = str(len(body))
            lines |= {k.replace("_", "-"): v for k, v in headers.items()}
            head = "".join(f"{k}: {v}\r\n" for k, v in lines.items() if v)
            tls.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + (body or b""))
            answer = http.client.HTTPResponse(tls, method=method)
            answer.begin()
            return answer.status, answer.headers, answer.read()

    def mutate(self, pod: object) -> dict[str, object]:
        body = json.dumps(review(pod)).encode()
        status, headers, answer = self.ask("POST", "/mutate?timeout=5s", body)
        assert (status, headers["Content-Type"]) == (200, "application/json"), answer
        assert headers["Connection"] == "close"
        return json.loads(answer)["response"]

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("lifl_webhook_admissions_total", {"outcome": outcome})


@pytest.fixture
def served(tmp_path, no_leaks) -> Iterator[Served]:
    made = Served(tmp_path)
    made.webhook.start()
    yield made
    made.webhook.stop()


def test_pods_are_patched_refused_and_counted(served):
    assert "patch" in served.mutate(pods.knative())
    refused = served.mutate(pods.plain("leaf"))
    assert not refused["allowed"]
    assert served.mutate({"metadata": {}})["allowed"]
    broken = served.mutate({"metadata": {"labels": {"lifl.dev/function": "gateway"}}})
    assert "KeyError('spec')" in broken["status"]["message"]
    outcomes = ("patched", "refused", "unchanged", "failed", "malformed")
    assert [served.count(o) for o in outcomes] == [1, 1, 1, 1, 0]
    assert served.registry.get_sample_value("lifl_webhook_seconds_count") == 4


def test_probes(served):
    assert served.ask("GET", "/healthz")[0] == 200
    assert served.ask("GET", "/readyz")[0] == 200
    assert served.webhook.trouble() == ""
    served.context = None
    assert "no certificate yet" in served.webhook.trouble()


def problem(answer, status: int, words: str) -> None:
    got, headers, body = answer
    assert (got, headers["Content-Type"]) == (status, "application/problem+json")
    document = json.loads(body)
    assert document["status"] == status
    assert words in document["detail"]


def test_what_is_no_review_gets_a_problem_document(served):
    problem(served.ask("POST", "/mutate", b"{"), 400, "no JSON")
    problem(served.ask("POST", "/mutate", b"{}"), 400, "no AdmissionReview")
    problem(served.ask("POST", "/other", b"{}"), 404, "/mutate")
    problem(served.ask("GET", "/mutate"), 404, "/healthz")
    problem(served.ask("PUT", "/mutate", b"{}"), 501, "PUT")
    problem(served.ask("POST", "/mutate"), 411, "Content-Length")
    problem(served.ask("POST", "/mutate", Content_Length="-1"), 411, "Content-Length")
    problem(served.ask("POST", "/mutate", Transfer_Encoding="chunked"), 411, "Content-Length")
    for length in (str(MAX_BYTES + 1), "9" * 5000):
        problem(served.ask("POST", "/mutate", Content_Length=length), 413, "at most 3145728")
    assert served.count("malformed") == 2


def test_a_body_that_ends_early(served):
    with served.connect() as tls:
        tls.sendall(b"POST /mutate HTTP/1.1\r\nContent-Length: 1000\r\n\r\nshort")
        socket.socket.shutdown(tls, socket.SHUT_WR)
        answer = http.client.HTTPResponse(tls, method="POST")
        answer.begin()
        problem((answer.status, answer.headers, answer.read()), 400, "1000 bytes were announced, 5")


def test_the_largest_review_is_read(served):
    body = json.dumps(review(pods.knative())).encode()
    body += b" " * (MAX_BYTES - len(body))
    assert served.ask("POST", "/mutate", body)[0] == 200


def test_certificates_change_between_connections(served):
    def serial() -> int:
        with served.connect() as tls:
            return tls.getpeercert()["serialNumber"]

    first = serial()
    served.context = served.issue()
    assert serial() != first
    served.context = None
    with pytest.raises((ssl.SSLError, ConnectionError)):
        serial()
    served.context = served.issue()
    assert serial() != first


def test_who_does_not_trust_the_authority_or_speaks_no_tls_is_dropped(served):
    with pytest.raises(ssl.SSLCertVerificationError), served.raw() as raw:
        ssl.create_default_context().wrap_socket(raw, server_hostname=HOST)
    with served.raw() as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(1000):  # a TLS alert
                pass
    assert served.mutate(pods.knative())["allowed"]
    deadline = time.monotonic() + 10
    while served.registry.get_sample_value("lifl_webhook_broken_connections_total") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_slow_ones_are_cut_off_and_keep_nobody_out(served, monkeypatch):
    """More of them than threads, each sending a byte now and then."""
    monkeypatch.setattr(webhook, "CONNECTION_SECONDS", 0.8)
    slow = [served.raw() for _ in range(webhook.THREADS + 8)]
    for s in slow:
        s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # half a ClientHello
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.1):
            for s in slow:
                with contextlib.suppress(OSError):
                    s.send(b"\0")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        begun = time.monotonic()
        assert served.mutate(pods.knative())["allowed"]
        assert time.monotonic() - begun < 10
    finally:
        stop.set()
        thread.join()
        for s in slow:
            s.close()


def test_silence_ends_a_connection(served, monkeypatch):
    monkeypatch.setattr(webhook, "SILENCE_SECONDS", 0.2)
    with served.connect() as tls:
        tls.sendall(b"POST /mutate HTTP/1.1\r\n")
        begun = time.monotonic()
        assert tls.recv(1) == b""
        assert time.monotonic() - begun < 5


def test_many_at_once(served):
    answers: list[bool] = []

    def run() -> None:
        for _ in range(5):
            answers.append(bool(served.mutate(pods.knative())["allowed"]))  # noqa: PERF401

    threads = [threading.Thread(target=run) for _ in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert answers == [True] * 60


def test_at_the_end_who_was_let_in_is_answered(tmp_path, no_leaks):
    served = Served(tmp_path)
    served.webhook.start()
    body = json.dumps(review(pods.knative())).encode()
    with served.connect() as tls:
        head = f"POST /mutate HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        tls.sendall(head.encode() + body[:100])
        stopping = threading.Thread(target=served.webhook.stop)
        stopping.start()
        deadline = time.monotonic() + 10
        while True:
            try:
                served.raw().close()
            except ConnectionError:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        tls.sendall(body[100:])
        answer = http.client.HTTPResponse(tls, method="POST")
        answer.begin()
        assert answer.status == 200
        answer.read()
    stopping.join()
