"""The aggregator's HTTP side under load while its pods come and go (Knative, no queue-proxy)."""

from __future__ import annotations

import collections
import json
import threading
import time

import numpy as np
import pytest
import urllib3

from lifl.update import Schema, iter_document
from tests.cluster.figures import Figures
from tests.cluster.install import Installation, pod_ready
from tests.cluster.jobs import entries, none_left
from tests.cluster.kube import kubectl, query, until
from tests.cluster.watch import PodWatch, Seen

pytestmark = pytest.mark.platforms("knative")

CLIENTS = 20
MOST = 12
SCHEMA = Schema.of({"w": np.zeros(25_000, np.float32)})
KEY = "autoscaling.knative.dev/min-scale"


class Load:
    """Clients that post an update and take the partial sum of it, again and again."""

    def __init__(self, ingress: str, host: str, clients: int = CLIENTS) -> None:
        self.answers: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []
        self._over = threading.Event()
        self._pool = urllib3.HTTPConnectionPool(
            *ingress.split(":"), maxsize=clients, retries=False, timeout=30
        )
        self._host = host
        self._body = b"".join(map(bytes, iter_document({"w": np.ones(25_000, np.float32)}, SCHEMA)))
        self._threads = [threading.Thread(target=self._post) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _post(self) -> None:
        heads = {
            "Host": self._host,
            "Content-Type": "application/vnd.safetensors",
            "LIFL-Num-Samples": "3",
        }
        while not self._over.is_set():
            began = time.monotonic()
            try:
                answer = self._pool.urlopen("POST", "/", body=self._body, headers=heads)
                self.answers[str(answer.status)] += 1
                if answer.status != 200:
                    print(f"{answer.status}: {answer.data[:200]!r} {dict(answer.headers)}")
            except urllib3.exceptions.HTTPError as e:
                self.answers[type(e).__name__] += 1
                print(f"no answer: {e}")
            self.seconds.append(time.monotonic() - began)


def test_no_request_fails_from_one_pod_to_twelve_and_back(
    lifl: Installation, figures: Figures
) -> None:
    """The tests' own Service is made visible outside; the revision's least number is changed."""
    label = "networking.knative.dev/visibility"
    kubectl("-n", lifl.namespace, "label", "ksvc", "aggregator", f"{label}-")
    try:
        host = until(lambda: _public_host(lifl), "a name of the aggregator outside")
        service = query("-n", lifl.namespace, "get", "ksvc", "aggregator")
        revision = service["status"]["latestReadyRevisionName"]
        until(none_left(lifl), "no aggregators' pods", 90.0)
        with PodWatch(lifl.namespace) as watch:
            _least(lifl, revision, 1)
            until(lambda: _ready(lifl) == 1, "one pod")
            ingress = entries(lifl)[0].ingress
            began = time.monotonic()
            with Load(ingress, host) as load:
                time.sleep(5)
                _least(lifl, revision, MOST)
                until(lambda: _ready(lifl) == MOST, "twelve pods", 120.0)
                time.sleep(5)
                _least(lifl, revision, 1)
                until(lambda: len(lifl.pods()) == 1, "one pod again", 120.0)
                time.sleep(12)
            seconds = time.monotonic() - began
        containers = {p.containers for p in watch.seen.values()}
        _least(lifl, revision, 0)
        until(none_left(lifl), "no aggregators' pods", 120.0)
    finally:
        kubectl("-n", lifl.namespace, "label", "ksvc", "aggregator", f"{label}=cluster-local")
    figures.note(
        lifl.platform,
        f"1 to {MOST} to 1 pods under {CLIENTS} clients of 100 KB",
        {
            "answers": dict(load.answers),
            "seconds": round(seconds, 1),
            "p50_ms": round(1e3 * float(np.percentile(load.seconds, 50)), 1),
            "p99_ms": round(1e3 * float(np.percentile(load.seconds, 99)), 1),
            "pods": len(watch.seen),
            "containers per pod": sorted(containers),
        },
    )
    assert set(load.answers) == {"200"}, load.answers
    assert containers == {1}


def _public_host(lifl: Installation) -> str:
    url = str(query("-n", lifl.namespace, "get", "ksvc", "aggregator")["status"].get("url", ""))
    return "" if "cluster.local" in url else url.removeprefix("http://")


def _ready(lifl: Installation) -> int:
    return sum(map(pod_ready, lifl.pods()))


def _least(lifl: Installation, revision: str, number: int) -> None:
    """Set a revision's least number of pods; its autoscaler's object follows."""
    kubectl(
        "-n", lifl.namespace, "annotate", "--overwrite", "revision", revision, f"{KEY}={number}"
    )


def _keeps(pod: Seen) -> bool:
    return pod.ready is not None and pod.annotations.get("lifl.dev/sidecar") == "keep"


def test_with_the_annotation_an_aggregator_has_two_containers(
    lifl: Installation, figures: Figures
) -> None:
    """`lifl.dev/sidecar: keep` is what every other Knative Service has."""
    path = "/spec/template/metadata/annotations"
    patch = [{"op": "add", "path": f"{path}/lifl.dev~1sidecar", "value": "keep"}]
    patch += [{"op": "add", "path": f"{path}/autoscaling.knative.dev~1min-scale", "value": "1"}]
    name = ("-n", lifl.namespace, "patch", "ksvc", "aggregator", "--type=json", "-p")
    try:
        with PodWatch(lifl.namespace) as watch:
            kubectl(*name, json.dumps(patch))
            pods = until(lambda: [p for p in watch.seen.values() if _keeps(p)], "a pod", 120.0)
        (containers,) = {p.containers for p in pods}
        figures.note(
            lifl.platform, "containers in an aggregator's pod with queue-proxy", containers
        )
        assert containers == 2
    finally:
        undo = [{"op": "remove", "path": str(p["path"])} for p in patch]
        kubectl(*name, json.dumps(undo))
        until(none_left(lifl), "no aggregators' pods", 120.0)
