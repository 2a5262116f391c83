"""Certificates kept in Secrets: by one, by several at once, and while there is no API server."""

from __future__ import annotations

import base64
import copy
import datetime
import itertools
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from controller import cluster_certs
from controller.clients.errors import Conflict, Exists, Forbidden
from controller.clients.kinds import WEBHOOK, Kind
from controller.cluster_certs import ClusterCertificates
from lifl.errors import Unavailable

NOW = datetime.datetime(2026, 11, 3, 12, tzinfo=datetime.UTC)
NAMES = ("lifl-ca", "lifl-webhook-tls", "lifl-agent-tls", "lifl-controller-tls")


class FakeCluster:
    """Objects with versions; ``before`` is called with each write, outside the lock."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.lock = threading.Lock()
        self.versions = itertools.count(1)
        self.writes: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda _verb, _name: None
        self.patches: list[list[dict[str, Any]]] = []

    def find(self, kind: Kind, name: str, namespace: str = "") -> dict[str, Any] | None:
        assert namespace == ("" if kind is WEBHOOK else "lifl-system")
        with self.lock:
            return copy.deepcopy(self.objects.get((kind.kind, name)))

    def create(self, kind: Kind, body: dict[str, Any], namespace: str = "") -> None:
        name = body["metadata"]["name"]
        self.before("create", name)
        with self.lock:
            if (kind.kind, name) in self.objects:
                raise Exists(f"{name} is there", 409, "AlreadyExists")
            self._put(kind, name, body)

    def replace(self, kind: Kind, body: dict[str, Any], namespace: str = "") -> None:
        name = body["metadata"]["name"]
        self.before("replace", name)
        with self.lock:
            old = self.objects[(kind.kind, name)]
            if old["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
                raise Conflict(f"{name} has changed")
            assert old["type"] == body["type"], "the API server does not let it"
            self._put(kind, name, body)

    def patch(self, kind: Kind, name: str, body: list[dict[str, Any]]) -> None:
        assert (kind, name) == (WEBHOOK, "lifl")
        self.patches.append(body)
        with self.lock:
            webhooks = self.objects[(kind.kind, name)]["webhooks"]
            for test, add in zip(body[::2], body[1::2], strict=True):
                at = int(test["path"].split("/")[2])
                assert webhooks[at]["name"] == test["value"]
                assert add["path"] == f"/webhooks/{at}/clientConfig/caBundle"
                webhooks[at]["clientConfig"]["caBundle"] = add["value"]

    def _put(self, kind: Kind, name: str, body: dict[str, Any]) -> None:
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(next(self.versions))
        self.objects[(kind.kind, name)] = body
        self.writes.append((kind.kind, name))

    # -- for the tests ------------------------------------------------------------------

    def data(self, name: str) -> dict[str, bytes]:
        found = self.objects[("Secret", name)]["data"]
        return {k: base64.b64decode(v) for k, v in found.items()}

    def bundle(self) -> bytes:
        webhook = self.objects[("MutatingWebhookConfiguration", "lifl")]["webhooks"][0]
        return base64.b64decode(webhook["clientConfig"].get("caBundle", ""))

    def configure(self) -> None:
        body = {
            "metadata": {"name": "lifl"},
            "webhooks": [
                {"name": "pods.lifl.dev", "clientConfig": {"service": {"name": "lifl-webhook"}}}
            ],
        }
        self._put(WEBHOOK, "lifl", body)
        self.writes.clear()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime.datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.configure()
    return made


def keeper(cluster: FakeCluster, clock: Clock, leading: bool = True) -> ClusterCertificates:
    return ClusterCertificates(cluster, "lifl-system", leading=lambda: leading, clock=clock)


def test_a_first_controller_makes_all_and_tells_the_api_server(cluster, clock):
    certs = keeper(cluster, clock)
    with pytest.raises(Unavailable, match="lifl-webhook-tls has no certificate yet"):
        certs.webhook_context()
    with pytest.raises(Unavailable, match="lifl-controller-tls has no certificate yet"):
        certs.credentials()
    certs.tend()
    assert [name for _, name in cluster.writes] == list(NAMES)
    assert set(cluster.data("lifl-ca")) == {"ca.crt", "ca.key"}
    for name in NAMES[1:]:
        assert set(cluster.data(name)) == {"ca.crt", "tls.crt", "tls.key"}
        assert cluster.objects[("Secret", name)]["type"] == "kubernetes.io/tls"
        assert cluster.data(name)["ca.crt"] == cluster.data("lifl-ca")["ca.crt"]
    assert cluster.bundle() == cluster.data("lifl-ca")["ca.crt"]
    assert isinstance(certs.webhook_context(), ssl.SSLContext)
    assert certs.credentials()[1].verify_mode is ssl.CERT_REQUIRED
    assert certs.credentials()[1].check_hostname


def test_nothing_is_written_when_nothing_is_due(cluster, clock):
    certs = keeper(cluster, clock)
    certs.tend()
    before = certs.webhook_context(), certs.credentials()
    cluster.writes.clear()
    cluster.patches.clear()
    certs.tend()
    assert (cluster.writes, cluster.patches) == ([], [])
    assert (certs.webhook_context(), certs.credentials()) == before, "no context is made anew"


def test_renewed_certificates_are_taken_into_use(cluster, clock):
    certs, other = keeper(cluster, clock), keeper(cluster, clock, leading=False)
    certs.tend()
    other.tend()
    before = certs.webhook_context(), certs.credentials()[0], other.webhook_context()
    clock.now += datetime.timedelta(days=61)
    cluster.writes.clear()
    other.tend()
    assert cluster.writes == [], "who does not lead renews nothing"
    certs.tend()
    assert [n for _, n in cluster.writes] == list(NAMES[1:])
    certs.tend()
    other.tend()
    after = certs.webhook_context(), certs.credentials()[0], other.webhook_context()
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_who_does_not_lead_makes_what_it_cannot_serve_without(cluster, clock):
    certs = keeper(cluster, clock, leading=False)
    certs.tend()
    assert certs.webhook_context()
    assert cluster.bundle()


def test_another_was_first_with_everything(cluster, clock):
    """Just before each of its writes, another controller makes all there is to make."""
    other = keeper(cluster, clock)

    def first(_verb: str, _name: str) -> None:
        cluster.before = lambda _verb, _name: None
        other.tend()

    certs = keeper(cluster, clock)
    cluster.before = first
    certs.tend()
    assert len(cluster.writes) == len(NAMES), "the second one wrote nothing"
    assert certs.credentials()[0] == other.credentials()[0]
    clock.now += datetime.timedelta(days=61)
    cluster.writes.clear()
    cluster.before = first
    certs.tend()
    other.tend()
    assert len(cluster.writes) == 3
    assert certs.credentials()[0] == other.credentials()[0]


@pytest.mark.parametrize("round_", range(5))
def test_many_start_at_once(cluster, clock, round_):
    certs = [keeper(cluster, clock, leading=i % 2 == 0) for i in range(6)]
    start = threading.Barrier(len(certs))
    errors: list[BaseException] = []

    def run(one: ClusterCertificates) -> None:
        start.wait()
        try:
            one.tend()
            one.tend()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(c,)) for c in certs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    for one in certs:
        one.tend()
    assert len({c.credentials()[0] for c in certs}) == 1
    authority = cluster.data("lifl-ca")["ca.crt"]
    assert cluster.bundle() == authority
    for name in NAMES[1:]:
        made = x509.load_pem_x509_certificate(cluster.data(name)["tls.crt"])
        made.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))


def test_only_the_bundle_is_patched_and_where_it_belongs(cluster, clock):
    configuration = cluster.objects[("MutatingWebhookConfiguration", "lifl")]
    configuration["webhooks"].append({"name": "more.lifl.dev", "clientConfig": {"caBundle": "x"}})
    keeper(cluster, clock).tend()
    (operations,) = cluster.patches
    assert [o["path"] for o in operations] == [
        "/webhooks/0/name",
        "/webhooks/0/clientConfig/caBundle",
        "/webhooks/1/name",
        "/webhooks/1/clientConfig/caBundle",
    ]
    assert configuration["webhooks"][0]["clientConfig"]["service"] == {"name": "lifl-webhook"}


def test_without_a_configuration_it_says_so_and_serves(cluster, clock, caplog):
    del cluster.objects[("MutatingWebhookConfiguration", "lifl")]
    certs = keeper(cluster, clock)
    certs.tend()
    assert certs.webhook_context()
    assert "no MutatingWebhookConfiguration lifl" in caplog.text


@pytest.mark.parametrize("content", ["?", base64.b64encode(b"garbage").decode(), None])
def test_secrets_that_somebody_spoilt_are_written_anew(cluster, clock, content):
    certs = keeper(cluster, clock)
    certs.tend()
    for name in NAMES:
        found = cluster.objects[("Secret", name)]
        found["data"] = None if content is None else dict.fromkeys(found["data"], content)
    cluster.writes.clear()
    assert certs.webhook_context(), "what is in use stays in use"
    certs.tend()
    assert [n for _, n in cluster.writes] == list(NAMES)
    assert cluster.bundle() == cluster.data("lifl-ca")["ca.crt"]
    labels = cluster.objects[("Secret", "lifl-ca")]["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/part-of": "lifl"}


def test_a_new_authority_is_trusted_before_it_signs(cluster, clock):
    certs = keeper(cluster, clock)
    certs.tend()
    old = cluster.data("lifl-ca")["ca.crt"]
    before = cluster.data("lifl-webhook-tls")
    clock.now += datetime.timedelta(days=10)
    del cluster.objects[("Secret", "lifl-ca")]
    certs.tend()
    new = cluster.data("lifl-ca")["ca.crt"]
    assert cluster.bundle() == new + old
    assert cluster.data("lifl-webhook-tls") == before | {"ca.crt": new + old}
    clock.now += datetime.timedelta(days=1, hours=1)
    certs.tend()
    assert cluster.data("lifl-webhook-tls")["tls.crt"] != before["tls.crt"]
    assert cluster.bundle() == new + old
    clock.now += datetime.timedelta(days=1, hours=1)
    certs.tend()
    assert cluster.bundle() == new


def test_the_successor_is_kept_beside_the_authority(cluster, clock):
    certs = keeper(cluster, clock)
    certs.tend()
    old = cluster.data("lifl-ca")
    clock.now += datetime.timedelta(days=2500)
    certs.tend()
    both = cluster.data("lifl-ca")
    assert {k: both[k] for k in old} == old
    clock.now += datetime.timedelta(days=1, hours=1)
    certs.tend()
    assert cluster.data("lifl-ca") == {"ca.crt": both["next.crt"], "ca.key": both["next.key"]}


# -- the thread -------------------------------------------------------------------------


def until(ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def serves(certs: ClusterCertificates) -> bool:
    try:
        certs.webhook_context()
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize("error", [Unavailable("away"), Forbidden("not allowed", 403), OSError(1)])
def test_the_thread_goes_on_after_trouble(cluster, clock, monkeypatch, caplog, no_leaks, error):
    monkeypatch.setattr(cluster_certs, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(cluster_certs, "RETRY_SECONDS", 0.01)
    times = iter([error, error])

    def trouble(_verb: str, _name: str) -> None:
        for e in times:
            raise e

    cluster.before = trouble
    certs = keeper(cluster, clock)
    certs.start()
    until(lambda: serves(certs))
    first = certs.webhook_context()
    clock.now += datetime.timedelta(days=61)
    until(lambda: certs.webhook_context() is not first)
    certs.stop()
    assert str(error) in caplog.text
