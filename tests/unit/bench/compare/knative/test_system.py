"""The side with a cluster of a dictionary, and what it makes of a Broker that answers."""

from __future__ import annotations

import http.client
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from bench import harness
from bench.compare.api import Load
from bench.compare.knative import events, manifests, system
from bench.compare.knative.kube import ClusterError
from bench.compare.knative.settings import Settings
from bench.compare.knative.system import Knative
from functions.aggregator.settings import AggregatorSettings
from functions.aggregator.web import create_app
from tests.unit.bench.compare.knative.doubles import FakeKube

NS = "lifl-vanilla"
READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
LOAD = Load("burst-4", "8kb", 4, (0.0,) * 4)
DOCUMENT = harness.model_document(8_000)


class Broker(ThreadingHTTPServer):
    """Delivers each event to whoever's Trigger wants it, and the reply as an event again.

    Functions are the aggregator's own app, without a socket between.
    """

    daemon_threads = True

    def __init__(self, triggers: list[dict[str, Any]], names: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Ingress)
        self.triggers = triggers
        env = {"LIFL_MAX_PARTIALS": "8"}
        self.functions = {
            n: create_app(AggregatorSettings.from_env(env | {"LIFL_NAME": n}), None).test_client()
            for n in names
        }
        self.refuses = False
        self.lock = threading.Lock()

    def deliver(self, heads: dict[str, str], body: bytes) -> None:
        about = {k[3:]: v for k, v in heads.items() if k.startswith("ce-")}
        for trigger in self.triggers:
            if not trigger["spec"]["filter"]["attributes"].items() <= about.items():
                continue
            to = trigger["spec"]["subscriber"]
            if "uri" in to:
                url = urlsplit(to["uri"])
                connection = http.client.HTTPConnection(url.netloc, timeout=10)
                connection.request("POST", url.path, body, heads)
                connection.getresponse().read()
                connection.close()
                continue
            with self.lock:
                answer = self.functions[to["ref"]["name"]].post(
                    "/", data=body, content_type="application/vnd.safetensors", headers=heads
                )
            assert answer.status_code in (200, 202), answer.data
            if answer.data:
                self.deliver({k.lower(): v for k, v in answer.headers.items()}, answer.data)


class _Ingress(BaseHTTPRequestHandler):
    server: Broker

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        heads = {k.lower(): v for k, v in self.headers.items() if k.lower().startswith("ce-")}
        refused = self.server.refuses or self.path != f"/{NS}/updates"
        if not refused:
            self.server.deliver(heads, body)
        self.send_response_only(500 if refused else 202)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch) -> FakeKube:
    monkeypatch.setattr(system, "READY_SECONDS", 0.5)
    broker = READY["status"] | {
        "address": {"url": f"http://broker-ingress.knative-x.svc/{NS}/updates"}
    }
    node = {"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}}
    pods = [
        {"metadata": {"uid": str(i), "name": f"p{i}"}, "spec": {"nodeName": f"n{i % 2}"}}
        for i in range(3)
    ]
    return FakeKube(
        {
            ("nodes",): {"items": [node]},
            ("-n", NS, "broker.eventing.knative.dev", "updates"): {"status": broker},
            ("-n", NS, "pods", "-l", "serving.knative.dev/service"): {"items": pods},
            **{
                ("-n", NS, kind): {"items": [{"metadata": {"name": "x"}, **READY}]}
                for kind in (
                    "broker.eventing.knative.dev",
                    "service.serving.knative.dev",
                    "trigger.eventing.knative.dev",
                )
            },
        }
    )


@pytest.fixture
def side(kube: FakeKube) -> Iterator[tuple[Knative, Broker]]:
    names = ["leaf-0", "leaf-1", events.TOP]
    with Broker([], names) as broker:
        threading.Thread(target=broker.serve_forever, daemon=True).start()
        ingress = f"127.0.0.1:{broker.server_address[1]}"
        settings = Settings(image="i", ingress=ingress, round_seconds=5.0)
        with Knative(LOAD, DOCUMENT, settings, kube) as found:
            broker.triggers = [dict(o) for o in kube.applied if o["kind"] == "Trigger"]
            yield found, broker
        broker.shutdown()


def test_rounds_through_triggers_and_the_aggregators_own_code(
    side: tuple[Knative, Broker], kube: FakeKube
) -> None:
    knative, _ = side
    for updates in (4, 3, 1, None):
        done = knative.play(updates)
        assert done.updates == (updates or 4)
        assert 0 < done.last_byte <= done.wall
        assert (done.created, done.nodes) == (0, 2)
    kinds = [o["kind"] for o in kube.applied]
    assert kinds == ["Namespace", "Broker", "Service", "Service", "Service", *["Trigger"] * 4]


def test_refused_updates_end_a_round(side: tuple[Knative, Broker]) -> None:
    knative, broker = side
    broker.refuses = True
    with pytest.raises(RuntimeError, match="4 of 4 updates were refused by the Broker"):
        knative.play()


def test_a_mean_without_an_update_is_found_out(
    side: tuple[Knative, Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    knative, _ = side
    monkeypatch.setattr(system.mean, "all_samples", lambda n: 1000)
    with pytest.raises(RuntimeError, match="is over 46 samples, 1000 were sent"):
        knative.play()


def test_it_takes_off_what_it_made(kube: FakeKube) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as other:
        settings = Settings(image="i", ingress=f"127.0.0.1:{other.server_address[1]}")
        with Knative(LOAD, DOCUMENT, settings, kube):
            pass
    assert kube.ran[-1] == ("delete", "namespace", NS, "--ignore-not-found")


def test_the_namespace_goes_whatever_a_webhook_says(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str, given: str = "", seconds: float = 240.0) -> str:
        if "trigger.eventing.knative.dev" in arguments:
            raise ClusterError("failed calling webhook")
        return FakeKube.run(kube, *arguments, given=given, seconds=seconds)

    monkeypatch.setattr(kube, "run", run)
    with Knative(LOAD, DOCUMENT, Settings(image="i", ingress="127.0.0.1:9"), kube):
        pass
    assert ("-n", NS, "delete", "service.serving.knative.dev", "--all") in kube.ran
    assert kube.ran[-1][:3] == ("delete", "namespace", NS)


def test_a_cluster_without_eventing_is_told_so(kube: FakeKube) -> None:
    kube.apis.remove("eventing.knative.dev/v1")
    with pytest.raises(ClusterError, match=r"no eventing.knative.dev/v1; install Knative Eventing"):
        Knative(LOAD, DOCUMENT, Settings(image="i"), kube).__enter__()
    assert kube.applied == []


def test_somebody_elses_namespace_is_left_alone(kube: FakeKube) -> None:
    kube.objects["get", "namespace", NS, "--ignore-not-found"] = NS
    with pytest.raises(ClusterError, match="namespace lifl-vanilla exists"):
        Knative(LOAD, DOCUMENT, Settings(image="i"), kube).__enter__()
    assert kube.applied == []


def test_what_does_not_become_ready_is_named_and_taken_off(kube: FakeKube) -> None:
    said = {"type": "Ready", "status": "False", "reason": "NoImage", "message": "not found"}
    kube.objects["-n", NS, "service.serving.knative.dev"] = {
        "items": [{"metadata": {"name": "leaf-1"}, "status": {"conditions": [said]}}]
    }
    with pytest.raises(
        ClusterError, match=r"every service to be Ready.*leaf-1.*NoImage: not found"
    ):
        Knative(LOAD, DOCUMENT, Settings(image="i"), kube).__enter__()
    assert kube.ran[-1][:2] == ("delete", "namespace")


def test_a_broker_that_is_not_reached_asks_for_an_ingress(kube: FakeKube) -> None:
    kube.objects["-n", "knative-x", "service", "broker-ingress"] = {
        "spec": {"clusterIP": "127.0.0.1"}
    }
    kube.objects["-n", NS, "broker.eventing.knative.dev", manifests.BROKER] = {
        "status": {"address": {"url": f"http://broker-ingress.knative-x.svc:1/{NS}/updates"}}
    }
    with pytest.raises(ClusterError, match=r"not reached from here at 127.0.0.1:1.*--ingress"):
        Knative(LOAD, DOCUMENT, Settings(image="i"), kube).__enter__()
