"""FederatedJobs as people use them: kubectl in, status out, with a real coordinator behind.

The API server may be any from 1.20 on. Where it evaluates CEL (1.25) it refuses a wrong job
itself; before that the coordinator does, and the job says so.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import gc
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.clients import errors
from controller.clients.api import Cluster
from controller.clients.kinds import CONFIG_MAP, EVENT, FEDERATED_JOB, SECRET, Kind
from controller.cluster.federatedjob import API, KIND
from controller.jobwriter import StatusWriter
from controller.operator import Operator
from controller.submission import Submission
from functions.coordinator.jobs import parse
from functions.coordinator.problems import Refused
from lifl.auth import mint_submitter_token
from lifl.client.http import HttpClient

from .apiserver import ApiServer
from .jobs_kit import (
    EXAMPLE,
    MODEL,
    REPO,
    SECRET_KEY,
    Coordinator,
    Rig,
    install,
    refusal,
    rig,
    until,
)

RBAC = "rbac.authorization.k8s.io/v1"
CLUSTER_ROLE = Kind(RBAC, "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDING = Kind(RBAC, "clusterrolebindings", "ClusterRoleBinding", namespaced=False)


@pytest.fixture(scope="module")
def api(cluster: Path) -> Iterator[Cluster]:
    connected = Cluster.connect(cluster)
    install(connected)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path_factory.mktemp("coordinator"))
    yield made
    made.close()


@pytest.fixture
def jobs(api: Cluster, coordinator: Coordinator) -> Iterator[Rig]:
    with rig(api, coordinator.url) as made:
        yield made


@pytest.fixture(scope="module")
def cel(api: Cluster) -> bool:
    """Whether the API server evaluates rules."""
    number = re.match(r"v1\.(\d+)", api.version())
    return number is not None and int(number[1]) >= 25


def held() -> set[str]:
    """Return the threads and connections of this process."""
    gc.collect()
    process = psutil.Process()
    connections = {f"{c.laddr} {c.raddr}" for c in process.net_connections() if c.raddr}
    return connections | {t.name for t in threading.enumerate()}


def reasons(jobs: Rig, name: str) -> list[str]:
    return [reason for reason, _, _ in jobs.events(name)]


def told(jobs: Rig, name: str, *wanted: str) -> None:
    """Wait for the events, which come a moment after the status; there are no others."""
    until(lambda: len(reasons(jobs, name)) >= len(wanted), f"{name}: {wanted}")
    assert reasons(jobs, name) == list(wanted)


def warned(jobs: Rig, name: str, reason: str) -> None:
    """Wait for a warning, which was left once."""
    until(lambda: (reason, "Warning", 1) in jobs.events(name), f"{name}: {reason}")


# -- a job's life -------------------------------------------------------------------


def test_the_example_from_kubectl_to_its_first_round(
    cluster: Path, kube_assets: Path, jobs: Rig, coordinator: Coordinator
) -> None:
    kubectl = [f"{kube_assets}/kubectl", f"--kubeconfig={cluster}", "-n", jobs.namespace]
    file = REPO / "examples/digits/job.yaml"
    subprocess.run([*kubectl, "apply", "-f", str(file)], check=True, capture_output=True)
    waiting = jobs.wait_phase("digits", "AwaitingModel")
    assert (waiting["observedGeneration"], waiting["secretName"]) == (1, "digits-key")
    asks = jobs.wait_condition("digits", "ModelReceived", "AwaitingModel")
    assert asks["status"] == "False"
    command = "lifl job model digits model.safetensors --gateway http://gateway.example"
    assert command in asks["message"]
    assert coordinator.jobs()["digits"]["owner"] == jobs.get("digits")["metadata"]["uid"]
    assert jobs.get("digits")["metadata"]["finalizers"] == ["lifl.dev/federatedjob"]

    secret = jobs.key("digits")
    assert secret is not None
    assert secret["metadata"]["ownerReferences"][0]["uid"] == jobs.get("digits")["metadata"]["uid"]
    key = bytes.fromhex(base64.b64decode(secret["data"]["auth_key"]).decode())
    submitter = HttpClient(coordinator.url, mint_submitter_token(key, "digits"))
    assert submitter.request("PUT", "/v1/jobs/digits/model", body=MODEL).status == 201
    submitter.close()

    running = jobs.wait_phase("digits", "Running")
    assert (running["round"], running["updates"], running["version"]) == ("1/20", "0/10", 0)
    coordinator.plan("digits")
    for client in range(7):
        coordinator.update("digits", f"c{client}")
    until(lambda: jobs.status("digits")["updates"] == "7/10", "seven updates to be shown")
    coordinator.http.json("POST", "/v1/jobs/digits/stop")
    stopped = jobs.wait_phase("digits", "Stopped")
    assert stopped["startTime"] <= stopped["completionTime"]
    told(jobs, "digits", "Submitted", "AwaitingModel", "ModelReceived", "Planned", "Stopped")
    listed = subprocess.run([*kubectl, "get", "fj"], check=True, capture_output=True, text=True)
    assert listed.stdout.split()[:8] == [
        "NAME",
        "ROUND",
        "UPDATES",
        "NODES",
        "AGGREGATORS",
        "ACCURACY",
        "PHASE",
        "AGE",
    ]
    subprocess.run([*kubectl, "delete", "fj", "digits"], check=True, capture_output=True)
    assert "digits" not in coordinator.jobs()
    coordinator.http.json("DELETE", "/internal/v1/jobs/digits")


def test_columns(jobs: Rig, coordinator: Coordinator) -> None:
    jobs.create("columns")
    jobs.wait_phase("columns", "AwaitingModel")
    coordinator.put_model("columns")
    jobs.wait_phase("columns", "Running")
    coordinator.plan("columns")
    coordinator.update("columns", "c1")
    until(lambda: jobs.status("columns")["updates"] == "1/10", "an update to be shown")
    until(lambda: jobs.status("columns")["aggregators"] == 5, "the plan to be shown")
    columns, rows = jobs.table()
    assert columns == [
        "Name",
        "Round",
        "Updates",
        "Nodes",
        "Aggregators",
        "Accuracy",
        "Phase",
        "Age",
    ]
    assert rows["columns"][:-1] == ["columns", "1/20", "1/10", 2, 5, "", "Running"] or rows[
        "columns"
    ][:-1] == ["columns", "1/20", "1/10", 2, 5, None, "Running"]
    assert "10 updates on 2 nodes, 5 aggregators, 2 levels" in [
        e["message"] for e in jobs.cluster.list(EVENT, jobs.namespace)[0]
    ]


# -- where the model comes from -----------------------------------------------------


@pytest.mark.parametrize("member", ["binaryData", "nothing", "later"])
def test_a_model_in_a_config_map(jobs: Rig, coordinator: Coordinator, member: str) -> None:
    name = f"cm-{member.lower()}"
    raw = base64.b64encode(MODEL).decode()
    body = {"metadata": {"name": "models"}, "binaryData": {"other": raw}}
    if member == "binaryData":
        body["binaryData"] = {"digits": raw}
    if member != "later":
        jobs.cluster.create(CONFIG_MAP, body, jobs.namespace)
    jobs.create(name, model={"configMap": {"name": "models", "key": "digits"}})
    if member != "binaryData":
        why = jobs.wait_condition(name, "ModelReceived", "ModelUnavailable")
        assert "models" in why["message"]
        assert coordinator.jobs()[name]["state"] == "submitted"
        warned(jobs, name, "ModelUnavailable")
        return
    jobs.wait_phase(name, "Running")
    told(jobs, name, "Submitted", "ModelReceived")


def test_a_model_that_is_none(jobs: Rig) -> None:
    body = {"metadata": {"name": "models"}, "data": {"digits": "not tensors"}}
    jobs.cluster.create(CONFIG_MAP, body, jobs.namespace)
    jobs.create("nonsense", model={"configMap": {"name": "models", "key": "digits"}})
    why = jobs.wait_condition("nonsense", "ModelReceived", "ModelRefused")
    assert why["status"] == "False" and why["message"]
    assert jobs.status("nonsense")["phase"] == "AwaitingModel"


class Files:
    """A server of models; the first ``failures`` requests are answered 503."""

    def __init__(self, failures: int = 0) -> None:
        outer = self
        self.asked = 0
        self.failures = failures

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                late = outer.asked <= outer.failures
                self.send_response(503 if late else 200)
                if not late:
                    self.send_header("Content-Length", str(len(MODEL)))
                self.end_headers()
                if not late:
                    self.wfile.write(MODEL)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/models/digits?version=1"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


def test_a_model_by_its_url(jobs: Rig) -> None:
    files = Files()
    try:
        jobs.create("by-url", model={"url": files.url})
        jobs.wait_phase("by-url", "Running")
        assert files.asked == 1
    finally:
        files.close()


def test_a_url_that_does_not_answer_yet(jobs: Rig) -> None:
    jobs.create("no-url", model={"url": "http://127.0.0.1:1/model?token=hidden"})
    why = jobs.wait_condition("no-url", "ModelReceived", "ModelUnavailable")
    assert "127.0.0.1" in why["message"] and "hidden" not in why["message"]


# -- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"rounds": 0}, "spec.rounds"),
        ({"rounds": "many"}, "spec.rounds"),
        ({"rounds": ...}, "rounds"),
        ({"clients": {"perRound": 2, "names": ["a", "a"]}}, "names"),
        ({"clients": {"perRound": 2, "selection": "best"}}, '"best"'),
        ({"strategy": {"name": "sgd"}}, "spec.strategy.name"),
        ({"strategy": {"name": "fedadam", "beta1": 1}}, "spec.strategy.beta1"),
        ({"model": {"path": "a", "url": "b"}}, "spec.model"),
        ({"deadlineSeconds": 0}, "spec.deadlineSeconds"),
        ({"pool": {"slots": 1}}, "spec.pool.slots"),
    ],
)
def test_the_api_server_says_what_is_wrong(api: Cluster, spec: dict[str, Any], said: str) -> None:
    wanted = {k: v for k, v in {**EXAMPLE["spec"], **spec}.items() if v is not ...}
    body = {"metadata": {"name": "wrong"}, "spec": wanted}
    assert said in refusal(lambda: api.create(FEDERATED_JOB, body, "default"))


def test_names_are_labels(api: Cluster) -> None:
    body = {"metadata": {"name": "a.b"}, "spec": EXAMPLE["spec"]}
    assert "metadata.name" in refusal(lambda: api.create(FEDERATED_JOB, body, "default"))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"clients": {"perRound": 2, "minimum": 3}}, "more than"),
        ({"clients": {"perRound": 2, "minimum": 1}, "deadlineSeconds": ...}, "deadlineSeconds"),
        ({"strategy": {"name": "fedavg", "beta1": 0.5}}, "beta1"),
    ],
)
def test_rules_between_members(
    jobs: Rig, coordinator: Coordinator, cel: bool, spec: dict[str, Any], said: str
) -> None:
    if cel:
        assert said in refusal(lambda: jobs.create("rules", **spec))
        return
    jobs.create("rules", **spec)
    refused = jobs.wait_phase("rules", "Refused")
    why = jobs.condition("rules", "Submitted")
    assert (why["status"], why["reason"]) == ("False", "InvalidSpec")
    assert said in why["message"]
    warned(jobs, "rules", "InvalidSpec")
    assert "secretName" not in refused and jobs.key("rules") is None
    assert "rules" not in coordinator.jobs()
    jobs.delete("rules")
    jobs.wait_gone("rules")


def test_a_spec_is_not_changed(jobs: Rig, coordinator: Coordinator, cel: bool) -> None:
    jobs.create("fixed")
    jobs.wait_phase("fixed", "AwaitingModel")

    def change(rounds: int) -> None:
        body = {"spec": {"rounds": rounds}}
        jobs.cluster.patch(FEDERATED_JOB, "fixed", body, jobs.namespace)

    if cel:
        assert "cannot be changed" in refusal(lambda: change(99))
        return
    change(99)
    why = jobs.wait_condition("fixed", "SpecChanged", "Immutable")
    assert why["status"] == "True"
    assert jobs.status("fixed")["observedGeneration"] == 2
    assert coordinator.jobs()["fixed"]["spec"]["spec"]["rounds"] == 20
    change(20)
    jobs.wait_condition("fixed", "SpecChanged", "AsSubmitted")


def test_labels_may_change(jobs: Rig) -> None:
    jobs.create("labelled", deadlineSeconds=None, clients={"perRound": 2})
    jobs.wait_phase("labelled", "AwaitingModel")
    body = {"metadata": {"labels": {"team": "vision"}}}
    jobs.cluster.patch(FEDERATED_JOB, "labelled", body, jobs.namespace)
    assert jobs.get("labelled")["spec"]["deadlineSeconds"] is None


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 20),
    st.sampled_from([0.5, 1.0, 1.5, 70000, 1000001, "random", "all", "fedavg", "fedyogi", "x"]),
    st.lists(st.sampled_from(["a", "b", "c d", 1]), max_size=3),
)
PLACES = [
    ("rounds",),
    ("clients", "perRound"),
    ("clients", "minimum"),
    ("clients", "overProvision"),
    ("clients", "selection"),
    ("clients", "names"),
    ("deadlineSeconds",),
    ("strategy", "name"),
    ("strategy", "lr"),
    ("strategy", "momentum"),
    ("update",),
    ("aggregation", "fanIn"),
    ("pool", "slots"),
    ("clientConfig",),
    ("model", "url"),
    ("model",),
    ("clients",),
]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
def test_a_real_api_server_takes_what_the_coordinator_takes(
    api: Cluster, cel: bool, changes: list[tuple[tuple[str, ...], Any]]
) -> None:
    document = copy.deepcopy(EXAMPLE)
    for path, value in changes:
        place = document["spec"]
        for name in path[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                return
        place[path[-1]] = value
    body = {"apiVersion": API, "kind": KIND, "metadata": {"name": "probe"}}
    path = FEDERATED_JOB.path("", "default")
    try:
        query = {"dryRun": "All"}
        found = api.ask("POST", path, query, body | {"spec": document["spec"]}, doing="try")
    except errors.ApiError as e:
        assert e.status in (400, 422), e
        with pytest.raises(Refused):
            parse(body | {"spec": without_nulls(document["spec"])})
        return
    stored = body | {"spec": found["spec"]}
    if cel:
        parse(stored)
        return
    with contextlib.suppress(Refused):  # rules are the coordinator's
        parse(stored)


def without_nulls(spec: Any) -> Any:
    """Return a spec as an API server reads it: null is absent, except for deadlineSeconds."""
    if not isinstance(spec, dict):
        return spec
    return {k: without_nulls(v) for k, v in spec.items() if v is not None or k == "deadlineSeconds"}


# -- other jobs ---------------------------------------------------------------------


def test_a_name_is_the_first_ones(jobs: Rig, api: Cluster, coordinator: Coordinator) -> None:
    jobs.create("popular")
    jobs.wait_phase("popular", "AwaitingModel")
    with rig(api, coordinator.url) as others:
        others.create("popular")
        others.wait_phase("popular", "Refused")
        why = others.condition("popular", "Submitted")
        assert why["reason"] == "NameTaken" and "another name" in why["message"]
        warned(others, "popular", "NameTaken")
        assert others.key("popular") is None
        others.delete("popular")
        others.wait_gone("popular")
    assert coordinator.jobs()["popular"]["state"] == "submitted"
    jobs.wait_phase("popular", "AwaitingModel")


def test_somebody_elses_secret_is_left_alone(jobs: Rig, coordinator: Coordinator) -> None:
    mine = {"metadata": {"name": "shy-key"}, "stringData": {"password": "x"}}
    jobs.cluster.create(SECRET, mine, jobs.namespace)
    jobs.create("shy")
    jobs.wait_condition("shy", "Submitted", "KeySecretTaken")
    assert "shy" not in coordinator.jobs()
    secret = jobs.key("shy")
    assert secret is not None and set(secret["data"]) == {"password"}
    jobs.delete("shy")
    jobs.wait_gone("shy")


# -- deletion -----------------------------------------------------------------------


def test_deletion_stops_and_removes_the_job(jobs: Rig, coordinator: Coordinator) -> None:
    jobs.create("short")
    jobs.wait_phase("short", "AwaitingModel")
    coordinator.put_model("short")
    jobs.wait_phase("short", "Running")
    first = jobs.get("short")["metadata"]["uid"]
    jobs.delete("short")
    jobs.wait_gone("short")
    assert "short" not in coordinator.jobs()
    jobs.create("short")  # nobody has told that nodes gave its pool up: it waits
    jobs.wait_condition("short", "Submitted", "CoordinatorUnavailable")
    assert "being deleted" in jobs.condition("short", "Submitted")["message"]
    coordinator.http.json("DELETE", "/internal/v1/jobs/short")
    jobs.wait_phase("short", "AwaitingModel")
    assert coordinator.jobs()["short"]["owner"] != first
    jobs.delete("short")
    jobs.wait_gone("short")


def test_a_job_that_was_deleted_behind_the_operators_back(
    jobs: Rig, coordinator: Coordinator
) -> None:
    jobs.create("lost")
    jobs.wait_phase("lost", "AwaitingModel")
    coordinator.put_model("lost")
    jobs.wait_phase("lost", "Running")
    coordinator.http.json("DELETE", "/v1/jobs/lost")
    failed = jobs.wait_phase("lost", "Failed")
    assert jobs.condition("lost", "Failed")["reason"] == "Gone"
    assert "completionTime" in failed
    coordinator.http.json("DELETE", "/internal/v1/jobs/lost")
    jobs.stop()
    jobs.start()  # a new operator does not begin it anew
    jobs.create("after-lost")
    jobs.wait_phase("after-lost", "AwaitingModel")
    assert "lost" not in coordinator.jobs()
    assert jobs.status("lost") == failed


# -- deaths -------------------------------------------------------------------------


def test_a_restarted_operator_goes_on_and_says_nothing_twice(
    jobs: Rig, coordinator: Coordinator
) -> None:
    jobs.create("steady")
    jobs.wait_phase("steady", "AwaitingModel")
    told(jobs, "steady", "Submitted", "AwaitingModel")
    shown, events, secret = jobs.status("steady"), jobs.events("steady"), jobs.key("steady")
    jobs.stop()
    jobs.start()
    jobs.create("later")
    jobs.wait_phase("later", "AwaitingModel")
    assert jobs.status("steady") == shown
    assert jobs.events("steady") == events
    assert jobs.key("steady") == secret
    jobs.stop()
    coordinator.put_model("steady")  # while no operator runs
    jobs.delete("later")
    jobs.start()
    jobs.wait_phase("steady", "Running")
    jobs.wait_gone("later")
    assert "later" not in coordinator.jobs()
    told(jobs, "steady", "Submitted", "AwaitingModel", "ModelReceived")


def test_killed_between_submitting_and_keeping_the_key(jobs: Rig, coordinator: Coordinator) -> None:
    """The successor submits again under the same uid and gets the same key."""
    jobs.stop()
    made = jobs.create("interrupted")
    document = {
        "apiVersion": API,
        "kind": KIND,
        "metadata": {"name": "interrupted"},
        "spec": made["spec"],
    }
    ask = {"spec": document, "owner": made["metadata"]["uid"]}
    answer = coordinator.http.json("POST", "/v1/jobs", ask)
    jobs.start()
    jobs.wait_phase("interrupted", "AwaitingModel")
    secret = jobs.key("interrupted")
    assert secret is not None
    assert base64.b64decode(secret["data"]["auth_key"]).decode() == answer["auth_key"]


def test_a_coordinator_that_is_away_for_a_while(jobs: Rig, coordinator: Coordinator) -> None:
    jobs.create("early")
    jobs.wait_phase("early", "AwaitingModel")
    coordinator.put_model("early")
    before = jobs.wait_phase("early", "Running")
    coordinator.stop()
    jobs.create("patient")
    why = jobs.wait_condition("patient", "Submitted", "CoordinatorUnavailable")
    assert why["status"] == "False"
    assert jobs.status("patient")["phase"] == "Pending"
    jobs.delete("early")
    assert jobs.status("early") == before  # nothing is wiped out; its end waits
    coordinator.start()
    jobs.wait_gone("early")
    jobs.wait_phase("patient", "AwaitingModel")
    assert set(coordinator.jobs()) >= {"patient"} and "early" not in coordinator.jobs()
    told(jobs, "patient", "CoordinatorUnavailable", "Submitted", "AwaitingModel")


@pytest.mark.skipif("KUBECONFIG" in os.environ, reason="that API server is not ours to stop")
def test_an_api_server_that_is_away_for_a_while(
    jobs: Rig, coordinator: Coordinator, apiserver: ApiServer
) -> None:
    jobs.create("offline")
    until(lambda: "AwaitingModel" in reasons(jobs, "offline"), "the event")
    apiserver.stop()
    coordinator.put_model("offline")
    time.sleep(3.0)
    apiserver.start()
    jobs.wait_phase("offline", "Running")
    told(jobs, "offline", "Submitted", "AwaitingModel", "ModelReceived")
    jobs.create("online")
    jobs.wait_phase("online", "AwaitingModel")


def test_an_operator_stops_at_once_and_leaves_nothing(
    cluster: Path, jobs: Rig, coordinator: Coordinator
) -> None:
    jobs.stop()
    before = held()
    client = Cluster.connect(cluster)
    submission = Submission(client, coordinator.url, bytes.fromhex(SECRET_KEY))
    writer = StatusWriter(client, submission)
    operator = Operator(client, submission, writer, namespaces=[jobs.namespace])
    writer.start()
    operator.start()
    assert operator.wait(10)
    jobs.create("brief")
    jobs.wait_phase("brief", "AwaitingModel")
    began = time.monotonic()
    operator.stop()
    writer.stop()
    assert time.monotonic() - began < 10.0
    assert not operator.alive
    submission.close()
    client.close()
    jobs.cluster.close()
    assert held() <= before


def test_the_role_that_is_needed(
    api: Cluster, coordinator: Coordinator, apiserver: ApiServer
) -> None:
    """The rules below are what the controller's role must have for this part."""
    names = {"name": "lifl-operator"}
    rules = [
        (["lifl.dev"], ["federatedjobs"], ["get", "list", "watch", "patch"]),
        (["lifl.dev"], ["federatedjobs/status"], ["patch"]),
        ([""], ["secrets"], ["get", "create", "patch", "delete"]),
        ([""], ["configmaps"], ["get"]),
        ([""], ["events"], ["create", "patch"]),
    ]
    api.create(
        CLUSTER_ROLE,
        {
            "metadata": names,
            "rules": [{"apiGroups": g, "resources": r, "verbs": v} for g, r, v in rules],
        },
    )
    group = "rbac.authorization.k8s.io"
    api.create(
        CLUSTER_ROLE_BINDING,
        {
            "metadata": names,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", **names},
            "subjects": [{"apiGroup": group, "kind": "User", "name": "operator"}],
        },
    )
    limited = Cluster.connect(apiserver.kubeconfig("operator"))
    body = {"metadata": {"name": "models"}, "binaryData": {"m": base64.b64encode(MODEL).decode()}}
    with rig(api, coordinator.url, client=limited) as made:
        api.create(CONFIG_MAP, body, made.namespace)
        made.create("least", model={"configMap": {"name": "models", "key": "m"}})
        made.wait_phase("least", "Running")
        until(lambda: reasons(made, "least") == ["Submitted", "ModelReceived"], "the events")
        made.delete("least")
        made.wait_gone("least")
    limited.close()
