"""The webhook, called by a real API server as in a cluster: by its Service's name, over TLS.

The Service is of type ExternalName, so that the API server finds a process of this machine
and yet wants a certificate for the Service's name.
"""

from __future__ import annotations

import base64
import copy
import datetime
import importlib.util
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from controller.clients.api import Cluster, Object
from controller.clients.errors import ApiError
from controller.clients.kinds import NAMESPACE, POD, SECRET, SERVICE, WEBHOOK
from controller.cluster.inject import patch
from controller.cluster_certs import ClusterCertificates
from controller.webhook import Webhook
from controller.webhook_metrics import WebhookMetrics
from lifl.errors import LiflError, Unavailable

from .apiserver import ApiServer
from .roles import SYSTEM, controller_login

PODS = Path(__file__).parents[1] / "unit" / "controller" / "cluster" / "pods.py"
_spec = importlib.util.spec_from_file_location("pods_of_webhook_tests", PODS)
pods: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pods)

MANIFEST = Path(__file__).parents[2] / "deploy" / "controller" / "310-webhook.yaml"
NAMES = ("lifl-ca", "lifl-webhook-tls", "lifl-agent-tls", "lifl-controller-tls")
FUNCTIONS, OTHERS = "webhook-functions", "webhook-others"
HOUR = datetime.timedelta(hours=1)
_numbers = itertools.count(1)


def until(ask: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 30
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return answer


class Rig:
    """A webhook with the controller's rights, in front of a namespace of functions."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.admin = Cluster.connect(server.admin)
        self.controller = Cluster.connect(controller_login(server, self.admin))
        # As if the first controller had come five days ago, so that days can pass.
        self.clock = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=5)
        for name in NAMES:
            self.admin.delete(SECRET, name, SYSTEM)
        self.certificates = ClusterCertificates(self.controller, SYSTEM, clock=lambda: self.clock)
        self.registry = CollectorRegistry()
        self.webhook = Webhook(
            ("127.0.0.1", 0), self.certificates.webhook_context, WebhookMetrics(self.registry)
        )
        self.webhook.start()
        for namespace, labels in ((FUNCTIONS, {"lifl.dev/functions": "enabled"}), (OTHERS, {})):
            if self.admin.find(NAMESPACE, namespace) is None:
                body = {"metadata": {"name": namespace, "labels": labels | {"of": "webhook-test"}}}
                self.admin.create(NAMESPACE, body)
        self._install()

    def _install(self) -> None:
        """Put the manifest in, for the test's namespaces alone: others use the API server too."""
        self.admin.delete(SERVICE, "lifl-webhook", SYSTEM)
        service = {"type": "ExternalName", "externalName": "localhost"}
        body = {"metadata": {"name": "lifl-webhook"}, "spec": service}
        self.admin.create(SERVICE, body, SYSTEM)
        self.configuration = yaml.safe_load(MANIFEST.read_text())
        (hook,) = self.configuration["webhooks"]
        hook["clientConfig"]["service"]["port"] = self.webhook.port
        hook["namespaceSelector"]["matchLabels"]["of"] = "webhook-test"
        self.admin.delete(WEBHOOK, "lifl")
        self.admin.create(WEBHOOK, self.configuration)
        self.certificates.tend()
        until(self._called, "the API server to call the webhook")

    def _called(self) -> bool:
        try:
            self.make(pods.plain())
        except Unavailable:  # it has not read the bundle yet
            return False
        return self.count("patched") > 0

    def make(self, pod: Object, namespace: str = FUNCTIONS) -> Object:
        body = copy.deepcopy(pod)
        body["metadata"] |= {"namespace": namespace, "name": f"pod-{next(_numbers)}"}
        body["metadata"].pop("ownerReferences", None)
        return self.admin.create(POD, body, namespace)

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("lifl_webhook_admissions_total", {"outcome": outcome})

    def bundle(self) -> bytes:
        (hook,) = self.admin.get(WEBHOOK, "lifl")["webhooks"]
        return base64.b64decode(hook["clientConfig"]["caBundle"])

    def secret(self, name: str) -> dict[str, bytes]:
        data = self.admin.get(SECRET, name, SYSTEM)["data"]
        return {k: base64.b64decode(v) for k, v in data.items()}

    def end(self) -> None:
        self.admin.delete(WEBHOOK, "lifl")
        if self.webhook.trouble() == "":
            self.webhook.stop()
        for item in self.admin.list(POD, FUNCTIONS)[0] + self.admin.list(POD, OTHERS)[0]:
            meta = item["metadata"]
            self.admin.delete(POD, meta["name"], meta["namespace"], grace=0)
        self.controller.close()
        self.admin.close()


@pytest.fixture
def rig(apiserver: ApiServer) -> Iterator[Rig]:
    made = Rig(apiserver)
    yield made
    made.end()


def test_only_the_bundle_was_put_into_the_configuration(rig):
    found = rig.admin.get(WEBHOOK, "lifl")
    (hook,) = found["webhooks"]
    assert base64.b64decode(hook["clientConfig"].pop("caBundle")) == rig.secret("lifl-ca")["ca.crt"]
    (wanted,) = rig.configuration["webhooks"]
    assert {k: hook[k] for k in wanted} == wanted
    assert found["metadata"]["labels"] == rig.configuration["metadata"]["labels"]


FUNCTION_PODS = [
    pods.knative("aggregator"),
    pods.knative("gateway"),
    pods.openfaas("aggregator"),
    pods.openfaas("gateway"),
    pods.plain("coordinator"),
]


def test_functions_are_completed_and_stay_so(rig):
    """Also after the API server has filled in its defaults: it may call again."""
    for pod in FUNCTION_PODS:
        made = rig.make(pod)
        assert made["spec"]["schedulerName"] == "lifl-scheduler"
        assert patch(made) == []
        names = [c["name"] for c in made["spec"]["containers"]]
        if pod["metadata"]["labels"]["lifl.dev/function"] == "aggregator":
            assert "queue-proxy" not in names
        (volume,) = (v for v in made["spec"]["volumes"] if v["name"] == "lifl-agent")
        assert volume["hostPath"] == {"path": "/run/lifl", "type": "DirectoryOrCreate"}


def test_nothing_else_is_touched(rig):
    before = rig.count("patched") + rig.count("unchanged")
    pod = pods.plain()
    assert rig.make(pod, OTHERS)["spec"]["schedulerName"] == "default-scheduler"
    del pod["metadata"]["labels"]["lifl.dev/function"]
    assert rig.make(pod)["spec"]["schedulerName"] == "default-scheduler"
    assert rig.count("patched") + rig.count("unchanged") == before


def test_binding_gives_a_pod_its_name_after_the_template_could_not(rig):
    pod = pods.plain()
    pod["metadata"]["annotations"] = {"lifl.dev/name": "top", "other": "stays"}
    made = rig.make(pod)
    assert made["metadata"]["annotations"] == {"other": "stays"}
    meta = made["metadata"]
    annotations = {"lifl.dev/name": "digits-agg-0", "lifl.dev/job": "digits"}
    rig.admin.bind(FUNCTIONS, meta["name"], "node-0", uid=meta["uid"], annotations=annotations)
    bound = rig.admin.get(POD, meta["name"], FUNCTIONS)
    assert bound["metadata"]["annotations"] == annotations | {"other": "stays"}


def test_a_refusal_reaches_who_made_the_pod(rig):
    with pytest.raises(ApiError, match=r"LIFL cannot run this pod: the label .*'leaf' is none of"):
        rig.make(pods.plain("leaf"))
    assert rig.count("refused") == 1


def test_a_dry_run_shows_the_patch_and_makes_nothing(rig):
    pod = pods.plain()
    pod["metadata"] = {"name": "dry", "namespace": FUNCTIONS, "labels": pod["metadata"]["labels"]}
    command = [f"{rig.server.assets}/kubectl", f"--kubeconfig={rig.server.admin}", "create"]
    command += ["--dry-run=server", "-o", "json", "-f", "-"]
    done = subprocess.run(command, check=True, input=json.dumps(pod).encode(), capture_output=True)
    assert json.loads(done.stdout)["spec"]["schedulerName"] == "lifl-scheduler"
    assert rig.admin.find(POD, "dry", FUNCTIONS) is None


class AddsSidecar(BaseHTTPRequestHandler):
    """Somebody else's webhook, which adds a container to every pod."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        sidecar = {"name": "istio-proxy", "image": "example.com/proxy:1"}
        operations = [{"op": "add", "path": "/spec/containers/-", "value": sidecar}]
        response = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": base64.b64encode(json.dumps(operations).encode()).decode(),
        }
        body = json.dumps(review | {"request": None, "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def sidecars(rig) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), AddsSidecar)
    server.socket = rig.certificates.webhook_context().wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    body = copy.deepcopy(rig.configuration)
    body["metadata"]["name"] = "zz-sidecars"
    (hook,) = body["webhooks"]
    hook |= {"name": "zz.example.com", "reinvocationPolicy": "Never"}
    hook["clientConfig"]["service"]["port"] = server.server_port
    hook["clientConfig"]["caBundle"] = base64.b64encode(rig.bundle()).decode()
    rig.admin.create(WEBHOOK, body)
    try:
        yield
    finally:
        rig.admin.delete(WEBHOOK, "zz-sidecars")
        server.shutdown()
        thread.join()
        server.server_close()


def test_called_again_after_another_webhook_it_changes_nothing(rig, sidecars):
    def with_sidecar() -> Object | None:
        patched, unchanged = rig.count("patched"), rig.count("unchanged")
        made = rig.make(pods.knative("aggregator"))
        if len(made["spec"]["containers"]) < 2:  # the other one is not known yet
            return None
        assert rig.count("patched") == patched + 1
        assert rig.count("unchanged") == unchanged + 1, "it was not called again"
        return made

    user, sidecar = until(with_sidecar, "the other webhook")["spec"]["containers"]
    assert user["name"] == "user-container"
    assert "env" not in sidecar
    assert not sidecar.get("volumeMounts")


def test_while_it_is_down_no_function_is_made_and_the_error_says_so(rig):
    rig.webhook.stop()
    with pytest.raises(LiflError, match=r'failed calling webhook "pods.lifl.dev".*refused'):
        rig.make(pods.plain())
    assert rig.make(pods.plain(), OTHERS), "others do not depend on it"


class Maker:
    """Makes pods all the time."""

    def __init__(self, rig: Rig) -> None:
        self.made = 0
        self.errors: list[Exception] = []
        self._rig = rig
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Maker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._rig.make(pods.plain())
                self.made += 1
            except Exception as e:
                self.errors.append(e)

    def more(self) -> None:
        """Wait until more were made: also for what the API server reads by a watch."""
        time.sleep(1.0)  # in a cluster a day passes here
        before = self.made
        until(lambda: self.made >= before + 5 or self.errors, "pods")


def test_certificate_and_authority_change_while_pods_are_made(rig):
    first = rig.secret("lifl-webhook-tls")
    old = rig.secret("lifl-ca")["ca.crt"]
    with Maker(rig) as maker:
        maker.more()
        body = rig.admin.get(SECRET, "lifl-webhook-tls", SYSTEM)
        rig.admin.replace(SECRET, body | {"data": {"tls.crt": "", "tls.key": ""}}, SYSTEM)
        rig.certificates.tend()
        rig.certificates.tend()
        second = rig.secret("lifl-webhook-tls")
        assert second["tls.crt"] != first["tls.crt"]
        assert rig.bundle() == old
        maker.more()

        rig.admin.delete(SECRET, "lifl-ca", SYSTEM)
        rig.certificates.tend()
        new = rig.secret("lifl-ca")["ca.crt"]
        assert rig.bundle() == new + old
        maker.more()
        rig.clock += 25 * HOUR
        rig.certificates.tend()
        rig.certificates.tend()
        third = rig.secret("lifl-webhook-tls")
        assert third["tls.crt"] not in {first["tls.crt"], second["tls.crt"]}
        maker.more()
        rig.clock += 25 * HOUR
        rig.certificates.tend()
        assert rig.bundle() == new
        maker.more()
    assert not maker.errors


def test_controllers_that_start_at_once_end_up_with_one_authority(rig):
    for name in NAMES:
        rig.admin.delete(SECRET, name, SYSTEM)
    logins = [Cluster.connect(controller_login(rig.server, rig.admin)) for _ in range(4)]
    all_ = [ClusterCertificates(c, SYSTEM, clock=lambda: rig.clock) for c in logins]
    errors: list[Exception] = []

    def run(one: ClusterCertificates) -> None:
        try:
            one.tend()
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(c,)) for c in all_]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    for one in all_:
        one.tend()
    assert len({one.credentials()[0] for one in all_}) == 1
    authority = rig.secret("lifl-ca")["ca.crt"]
    assert {rig.secret(n)["ca.crt"] for n in NAMES[1:]} == {authority}
    assert rig.bundle() == authority
    for c in logins:
        c.close()
