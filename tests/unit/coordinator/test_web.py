"""The HTTP side: every endpoint, who may call it, and what wrong requests are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from safetensors.numpy import load, save

from functions.coordinator.web import create_app
from lifl.auth import (
    mint_client_token,
    mint_platform_token,
    mint_submitter_token,
)

from .kit import MODEL, SCHEMA, SECRET, Stage, job_file, until, update

PLATFORM = {
    "Authorization": f"Bearer {mint_platform_token(bytes.fromhex(SECRET), 'test')}",
}
BASE = "/internal/v1"
ASK = {"job": "digits", "round": 1, "client": "c0", "node": "node-0"}
ASK |= {"num_samples": 4, "nbytes": 100}


class Web:
    """A client that shows the platform's token and reads JSON."""

    def __init__(self, stage: Stage, client: FlaskClient) -> None:
        self.stage, self.client = stage, client

    def call(
        self, method: str, path: str, body: Any = None, status: int = 200, **options: Any
    ) -> Any:
        headers = options.pop("headers", PLATFORM)
        answer = self.client.open(path, method=method, json=body, headers=headers, **options)
        assert answer.status_code == status, answer.get_data(as_text=True)
        if status >= 400:
            assert answer.content_type == "application/problem+json"
            document = answer.get_json(force=True)
            assert document["status"] == status and document["instance"] == path.partition("?")[0]
            return document["code"]
        if status == 204:
            assert not answer.data
            return None
        return answer.get_json()

    def post(self, path: str, body: Any, status: int = 200, **options: Any) -> Any:
        return self.call("POST", path, body, status, **options)

    def submit(self, **spec: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.post("/v1/jobs", {"spec": job_file(**spec)}, 201)
        return answer

    def start(self, **spec: Any) -> dict[str, Any]:
        """Submit a job with its model; return its view."""
        self.submit(**spec)
        answer = self.client.put("/v1/jobs/digits/model", data=save(MODEL), headers=PLATFORM)
        assert answer.status_code == 201, answer.get_data(as_text=True)
        self.stage.agent.create(self.stage.coordinator.jobs.record("digits").geometry)
        self.stage.job()
        return self.view()

    def view(self) -> dict[str, Any]:
        (job,) = self.call("GET", f"{BASE}/watch")["jobs"]
        return dict(job)

    def plan(self, status: int = 200, **changes: Any) -> Any:
        view = self.view()
        plan = {
            "job": "digits",
            "assignment": view["assignment"],
            "epoch": 1,
            "timing": "eager",
            "roles": [],
            "clients": {"c0": "node-0"},
        }
        body = {"round": view["round"], "plan": plan | changes}
        return self.call("PUT", f"{BASE}/jobs/digits/plan", body, status)

    def claim(self, client: str = "c0", status: int = 201, **changes: Any) -> Any:
        return self.post(f"{BASE}/claims", ASK | {"client": client} | changes, status)

    def count(self, **changes: Any) -> Any:
        end = {"assignment": 1, "slot": 3, "generation": 1, "digest": "d"}
        body = ASK | end | changes
        return self.client.post(f"{BASE}/updates", json=body, headers=PLATFORM)

    def seal(self, serial: int, status: int = 204, **changes: Any) -> Any:
        body = {"job": "digits", "node": "node-0", "slot": 3, "generation": 1, "digest": "d"}
        return self.post(f"{BASE}/claims/{serial}/sealed", body | changes, status)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    stage = Stage(tmp_path)
    yield Web(stage, create_app(stage.coordinator).test_client())
    stage.close()


# -- jobs ---------------------------------------------------------------------


def test_submitting_a_job_and_its_model(web):
    answer = web.submit()
    assert answer["state"] == "submitted" and len(bytes.fromhex(answer["auth_key"])) == 32
    assert web.call("GET", f"{BASE}/watch")["jobs"] == []
    assert web.call("GET", "/v1/jobs/digits")["state"] == "submitted"
    assert web.post(f"{BASE}/claims", {"job": "digits"}, 422) == "bad-member"
    assert web.claim(status=409) == "no-model-yet"
    web.client.put("/v1/jobs/digits/model", data=save(MODEL), headers=PLATFORM)
    status = web.call("GET", "/v1/jobs/digits")
    assert (status["state"], status["round"], status["version"]) == ("running", 1, 0)
    assert "auth_key" not in status
    answer = web.client.put("/v1/jobs/digits/model", data=save(MODEL), headers=PLATFORM)
    assert answer.get_json()["code"] == "model-exists"


def test_names_are_unique_and_jobs_are_listed(web):
    web.submit()
    assert web.post("/v1/jobs", {"spec": job_file()}, 409) == "job-exists"
    web.post("/v1/jobs", {"spec": job_file("other")}, 201)
    assert [j["job"] for j in web.call("GET", "/v1/jobs")["jobs"]] == ["digits", "other"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ([], 400, "not-json"),
        ({}, 422, "bad-member"),
        ({"spec": 3}, 422, "bad-member"),
        ({"spec": {}}, 422, "invalid-job"),
        ({"spec": job_file(rounds=0)}, 422, "invalid-job"),
    ],
)
def test_unusable_jobs_are_refused(web, body, status, code):
    assert web.post("/v1/jobs", body, status) == code


@pytest.mark.parametrize("data", [b"{}", b"nonsense", save(MODEL)[:-5]])
def test_unusable_models_are_refused_and_the_job_still_waits(web, data):
    web.submit()
    answer = web.client.put("/v1/jobs/digits/model", data=data, headers=PLATFORM)
    assert answer.status_code == 422
    assert web.call("GET", "/v1/jobs/digits")["state"] == "submitted"
    assert (
        web.client.put("/v1/jobs/digits/model", data=save(MODEL), headers=PLATFORM).status_code
        == 201
    )


def test_models_need_a_length_within_the_limit(tmp_path):
    stage = Stage(tmp_path, LIFL_MAX_MODEL_BYTES="100")
    web = Web(stage, create_app(stage.coordinator).test_client())
    web.submit()
    path = "/v1/jobs/digits/model"
    assert web.client.put(path, data=save(MODEL), headers=PLATFORM).status_code == 413
    assert web.call("PUT", path, None, 411) == "length-required"
    stage.close()


def test_stopping(web):
    web.submit()
    assert web.post("/v1/jobs/digits/stop", None)["state"] == "stopped"
    web.post("/v1/jobs", {"spec": job_file("other")}, 201)
    answer = web.client.put("/v1/jobs/digits/model", data=save(MODEL), headers=PLATFORM)
    assert answer.status_code == 409


def test_stopping_a_running_job(web):
    web.start()
    web.plan()
    web.claim()
    assert web.post("/v1/jobs/digits/stop", None)["state"] == "stopped"
    assert web.post("/v1/jobs/digits/stop", None)["state"] == "stopped"
    assert web.view()["phase"] == "stopped"
    assert web.claim("c1", 409) == "job-over"


def test_unknown_jobs(web):
    for method, path in [
        ("GET", "/v1/jobs/nope"),
        ("POST", "/v1/jobs/nope/stop"),
        ("GET", "/v1/jobs/nope/history"),
        ("GET", f"{BASE}/jobs/nope/model"),
    ]:
        assert web.call(method, path, None, 404) == "no-such-job"
    assert web.claim(job="nope", status=404) == "no-such-job"
    assert web.call("GET", "/nowhere", None, 404) == "not-found"
    assert web.call("DELETE", "/v1/jobs", None, 405) == "method-not-allowed"


# -- the watch ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregation", "said"),
    [({}, (2, True)), ({"fanIn": 2}, (2, False)), ({"fanIn": 7}, (7, False))],
)
def test_the_view_says_whether_the_controller_may_choose_the_leaves(web, aggregation, said):
    view = web.start(aggregation=aggregation)
    assert (view["fan_in"], view["as_needed"]) == said


def test_the_view_has_what_the_contract_says(web):
    view = web.start(clientConfig={"epochs": 3})
    assert set(view) >= {
        "job",
        "domain_uid",
        "state",
        "round",
        "assignment",
        "version",
        "phase",
        "schema",
        "geometry",
        "fan_in",
        "as_needed",
        "timing",
        "auth_key",
        "selected",
        "clients",
        "accepted",
        "lost",
        "upload",
        "public",
        "model",
        "deadline",
        "closing",
        "plan",
        "expected",
        "client_config",
        "update_type",
    }
    assert view["schema"] == SCHEMA.to_json()
    assert set(view["geometry"]) == {"slots", "float_bytes", "meta_bytes"}
    assert (view["phase"], view["expected"], sorted(view["selected"])) == (
        "planning",
        2,
        ["c0", "c1"],
    )
    assert view["model"]["node"] == "node-0"
    assert view["model"]["doc_bytes"] == SCHEMA.document_bytes
    assert view["client_config"] == {"epochs": 3}


def test_with_selection_all_the_view_names_the_known_clients(web):
    view = web.start(clients={"perRound": 2, "selection": "all", "names": ["x"]})
    assert (view["selected"], view["expected"], view["known"]) == (None, 2, ["x"])


def test_a_watch_blocks_until_something_happens(web):
    web.start()
    since = web.call("GET", f"{BASE}/watch")["rev"]
    got: list[Any] = []
    other = web.client.application.test_client()

    def watch() -> None:
        path = f"{BASE}/watch?since={since}&wait=10"
        got.append(other.get(path, headers=PLATFORM).get_json())

    watcher = threading.Thread(target=watch)
    watcher.start()
    web.plan()
    watcher.join(10)
    assert got[0]["rev"] > since and got[0]["jobs"][0]["phase"] == "open"


def test_a_watch_needs_numbers(web):
    assert web.call("GET", f"{BASE}/watch?since=x", None, 422) == "bad-query"


def test_uploads_go_where_gateways_are(web):
    web.start()
    web.post(f"{BASE}/nodes/node-0", {"gateway_url": "http://127.0.0.1:1/"})
    answer = web.call("GET", f"{BASE}/watch")
    row = {"node": "node-0", "url": "http://127.0.0.1:1", "public": "", "info": {}}
    assert answer["nodes"] == [row]
    assert answer["jobs"][0]["upload"] == {"node-0": "http://127.0.0.1:1"}
    assert answer["jobs"][0]["public"] == {}
    assert web.call("DELETE", f"{BASE}/nodes/node-0")["known"]
    assert web.call("GET", f"{BASE}/watch")["nodes"] == []


def test_clients_may_reach_a_gateway_elsewhere_than_other_gateways_do(web):
    web.start()
    beat = {"gateway_url": "http://10.0.0.1:8080", "public_url": "http://gw:8080/function/g/"}
    web.post(f"{BASE}/nodes/node-0", beat)
    public = {"node-0": "http://gw:8080/function/g"}
    assert web.call("GET", f"{BASE}/watch")["jobs"][0]["public"] == public
    url = {"url": "https://node-0.example.com"}
    since = web.call("GET", f"{BASE}/watch")["rev"]
    web.call("PUT", f"{BASE}/nodes/node-0/public", url)
    web.post(f"{BASE}/nodes/node-0", beat)
    answer = web.call("GET", f"{BASE}/watch")
    assert answer["rev"] == since + 1
    assert answer["nodes"][0]["public"] == url["url"]
    assert answer["jobs"][0]["public"] == {"node-0": url["url"]}
    assert answer["jobs"][0]["upload"] == {"node-0": "http://10.0.0.1:8080"}
    assert web.call("PUT", f"{BASE}/nodes/node-1/public", url, 404) == "no-such-node"
    for wrong in ("ftp://x", "gw:8080", "http://", "http://x?y=1"):
        body = {"url": wrong}
        assert web.call("PUT", f"{BASE}/nodes/node-0/public", body, 422) == "bad-member"
        assert web.post(f"{BASE}/nodes/node-0", beat | {"public_url": wrong}, 422) == "bad-member"
    web.call("PUT", f"{BASE}/nodes/node-0/public", {"url": ""})
    assert web.call("GET", f"{BASE}/watch")["jobs"][0]["public"] == public


# -- claims -------------------------------------------------------------------


def test_an_update_from_claim_to_sealed(web):
    web.start()
    assert web.claim(status=409) == "round-not-open"
    web.plan()
    claim = web.claim()
    assert claim == {"claim": 1, "assignment": 1}
    web.seal(1)
    web.seal(1)
    duplicate = web.claim(status=200)
    assert duplicate == {
        "claim": 1,
        "assignment": 1,
        "duplicate": True,
        "state": "sealed",
        "digest": "d",
    }
    assert until(lambda: web.view()["accepted"]) == ["c0"]


def test_an_update_that_is_claimed_and_counted_in_one(web):
    web.start()
    web.plan()
    first = web.count()
    assert (first.status_code, first.data, first.headers["LIFL-Claim"]) == (204, b"", "1")
    assert web.count().status_code == 204
    other = web.count(slot=4)
    assert (other.status_code, other.get_json()) == (
        200,
        {"claim": 1, "duplicate": True, "state": "sealed", "digest": "d"},
    )
    assert until(lambda: web.view()["accepted"]) == ["c0"]
    refusals = {
        "not-selected": {"client": "c9"},
        "wrong-round": {"round": 4},
        "wrong-assignment": {"client": "c1", "assignment": 9},
        "bad-member": {"digest": None},
    }
    for code, changes in refusals.items():
        answer = web.count(**changes)
        assert (answer.status_code, answer.get_json(force=True)["code"]) == (
            422 if code == "bad-member" else 409,
            code,
        )


def test_refused_claims_have_codes(web):
    web.start()
    web.plan()
    assert web.claim("c9", 409) == "not-selected"
    assert web.claim("c0", 409, round=4) == "wrong-round"
    assert web.claim("c0", 409, base_version=4) == "wrong-base-version"
    assert web.claim("c0", 422, update_type="delta") == "wrong-update-type"
    assert web.claim("c0", 422, num_samples=0) == "bad-member"
    assert web.claim("c0", 422, num_samples=1 << 41) == "bad-member"
    assert web.claim("c0", 422, num_samples="4") == "bad-member"
    assert web.claim("c0", 422, num_samples=True) == "bad-member"
    assert web.claim("no spaces!", 422) == "unusable"
    assert web.seal(99, 409) == "claim-gone"


def test_an_aborted_claim_opens_again(web):
    web.start()
    web.plan()
    serial = web.claim()["claim"]
    web.call("DELETE", f"{BASE}/claims/{serial}?job=digits")
    assert web.seal(serial, 409) == "claim-gone"
    web.seal(web.claim()["claim"])


def test_a_gateway_that_was_succeeded_comes_too_late(web):
    web.start()
    web.plan()
    serial = web.claim()["claim"]
    web.post(
        f"{BASE}/nodes/node-0/inventory", {"job": "digits", "serials": [serial], "boot": "second"}
    )
    late = web.claim("c1")["claim"]
    assert web.seal(late, 409, boot="first") == "claim-gone"
    web.seal(late, boot="second")


def test_an_inventory_over_http(web):
    web.start()
    web.plan()
    web.seal(web.claim()["claim"])
    answer = web.post(f"{BASE}/nodes/node-0/inventory", {"job": "digits", "serials": [77]})
    assert answer["unknown"] == [77]
    assert web.view()["lost"] == ["c0"]
    assert (
        web.post(f"{BASE}/nodes/node-0/inventory", {"job": "digits", "serials": ["x"]}, 422)
        == "bad-member"
    )


def test_a_silent_node_is_lost(tmp_path):
    stage = Stage(tmp_path, LIFL_NODE_TIMEOUT="0.2")
    web = Web(stage, create_app(stage.coordinator).test_client())
    web.start()
    web.plan()
    web.post(f"{BASE}/nodes/node-1", {"gateway_url": "http://127.0.0.1:1"})
    web.seal(web.claim(node="node-1")["claim"], node="node-1")
    assert until(lambda: web.view()["lost"]) == ["c0"]
    stage.close()


def test_whatever_a_gateway_asks_for_says_that_its_node_is_alive(web):
    web.start()
    web.plan()
    web.post(f"{BASE}/nodes/node-0", {"gateway_url": "http://127.0.0.1:1"})
    nodes = web.stage.coordinator.nodes
    serial = web.claim()["claim"]
    move = {"job": "digits", "assignment": 1, "serial": 1 << 62, "from": "node-0", "to": "node-1"}
    place = {"job": "digits", "assignment": 1, "node": "node-0", "slot": 4, "generation": 1}
    asks = {
        "claim": lambda: web.claim("c1"),
        "seal": lambda: web.seal(serial),
        "count": lambda: web.count(client="c2"),
        "transfer": lambda: web.call(
            "POST", f"{BASE}/transfers", move | {"cover": [serial], "weight": 4.0}, 201
        ),
        "arrival": lambda: web.client.post(
            f"{BASE}/transfers/9/sealed", json=place, headers=PLATFORM
        ),
    }
    for name, ask in asks.items():
        due = nodes.due()
        ask()
        assert nodes.due() > due, name


# -- plans, clients, transfers ------------------------------------------------


def test_plans_are_checked(web):
    web.start()
    assert web.plan(422, job="other") == "wrong-job"
    assert web.plan(422, roles=[{"name": "x"}]) == "unusable"
    assert web.plan(409, assignment=9) == "wrong-assignment"
    web.plan()
    assert web.plan(409, epoch=0) == "stale-plan"
    assert web.view()["plan"]["clients"] == {"c0": "node-0"} == web.view()["clients"]


def test_clients_become_known_by_polling(web):
    web.start(clients={"perRound": 3, "minimum": 3})
    web.post(f"{BASE}/jobs/digits/clients", {"clients": ["a", "b"]})
    assert web.view()["expected"] == 0
    beat = {"gateway_url": "http://127.0.0.1:1", "clients": {"digits": ["c"], "gone": ["d"]}}
    web.post(f"{BASE}/nodes/node-0", beat)
    assert sorted(web.view()["selected"]) == ["a", "b", "c"]
    assert web.post(f"{BASE}/jobs/nope/clients", {"clients": []}, 404) == "no-such-job"
    assert web.post(f"{BASE}/jobs/digits/clients", {"clients": ["b a d"]}, 422) == "unusable"


def test_a_short_grace_ends_the_wait_for_more_clients(web, monkeypatch):
    web.start(clients={"perRound": 3, "minimum": 2}, deadlineSeconds=60)
    web.post(f"{BASE}/jobs/digits/clients", {"clients": ["a", "b"]})
    assert until(lambda: web.view()["expected"]) == 2


def test_a_transfer_over_http(web):
    web.start()
    web.plan()
    serial = web.claim(node="node-1")["claim"]
    web.seal(serial, node="node-1")
    ask = {
        "job": "digits",
        "assignment": 1,
        "serial": serial,
        "from": "node-1",
        "to": "node-0",
        "cover": [serial],
        "weight": 4,
    }
    web.post(f"{BASE}/transfers", ask, 201)
    arrived = {"job": "digits", "assignment": 1, "node": "node-0", "slot": 5, "generation": 2}
    web.post(f"{BASE}/transfers/{serial}/sealed", arrived)
    web.post(f"{BASE}/transfers/{serial}/sealed", arrived)
    code = web.post(f"{BASE}/transfers/{serial}/sealed", arrived | {"slot": 6}, 409)
    assert code == "transfer-sealed"
    assert web.post(f"{BASE}/transfers", ask)["duplicate"]
    stock = {"job": "digits", "serials": [], "boot": "second"}
    web.post(f"{BASE}/nodes/node-0/inventory", stock)  # what had arrived died with its gateway
    web.post(f"{BASE}/transfers", ask, 201)
    late = arrived | {"boot": "first"}
    assert web.post(f"{BASE}/transfers/{serial}/sealed", late, 409) == "claim-gone"
    web.post(f"{BASE}/transfers/{serial}/sealed", arrived | {"boot": "second"})
    assert web.post(f"{BASE}/transfers", ask | {"assignment": 7}, 409) == "wrong-assignment"


# -- versions -----------------------------------------------------------------


def test_history_and_evaluations(web):
    web.start()
    web.plan()
    updates = {}
    for i, client in enumerate(("c0", "c1")):
        serial = web.claim(client, metrics={"loss": float(i)})["claim"]
        web.seal(serial)
        updates[serial] = (4, update(i))
    web.stage.agent.partial(1, updates)
    until(lambda: web.view()["version"] == 1)
    web.post("/v1/jobs/digits/evaluations", {"version": 1, "accuracy": 0.5, "loss": 2}, 201)
    (row,) = web.call("GET", "/v1/jobs/digits/history")["rounds"]
    assert (row["accuracy"], row["loss"], row["metrics"]) == (0.5, 2.0, {"loss": 0.5})
    assert (row["accepted"], row["aggregated"], row["samples"]) == (2, 2, 8.0)
    code = web.post("/v1/jobs/digits/evaluations", {"version": 7}, 404)
    assert code == "no-such-version"
    broken = {"version": 1, "accuracy": float("nan")}
    assert web.post("/v1/jobs/digits/evaluations", broken, 422) == "bad-member"


def test_the_model_from_its_checkpoint(web):
    web.start()
    answer = web.client.get(f"{BASE}/jobs/digits/model", headers=PLATFORM)
    assert answer.headers["LIFL-Model-Version"] == "0"
    assert (load(answer.data)["w"] == MODEL["w"]).all()
    etag = answer.headers["ETag"]
    again = web.client.get(f"{BASE}/jobs/digits/model", headers={**PLATFORM, "If-None-Match": etag})
    assert again.status_code == 304
    answer.close()
    again.close()


def test_a_model_on_its_way_to_the_disk_is_to_be_asked_for_again(web):
    web.start()
    job = web.stage.coordinator.jobs.get("digits")
    job.version = replace(job.version, kept=False)
    path = f"{BASE}/jobs/digits/model"
    answer = web.client.get(path, headers=PLATFORM)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "version 0 is on its way to the disk" in answer.get_json(force=True)["detail"]


# -- who may ------------------------------------------------------------------


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_who_may_what(web):
    key = bytes.fromhex(web.submit()["auth_key"])
    web.post("/v1/jobs", {"spec": job_file("other")}, 201)
    submitter = bearer(mint_submitter_token(key, "digits"))
    assert web.call("GET", "/v1/jobs/digits", headers=submitter)["job"] == "digits"
    for headers, status in [
        ({}, 401),
        ({"Authorization": "Basic eDp5"}, 401),
        (bearer("nonsense"), 401),
        (bearer(mint_submitter_token(b"x" * 32, "digits")), 401),
        (bearer(mint_client_token(key, "digits", "c0")), 403),
        (bearer(mint_submitter_token(key, "digits", lifetime=-10)), 401),
        (bearer(mint_submitter_token(key, "other")), 403),
    ]:
        web.call("GET", "/v1/jobs/digits", status=status, headers=headers)
    for method, path in [
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("GET", f"{BASE}/watch"),
        ("POST", f"{BASE}/claims"),
        ("POST", f"{BASE}/updates"),
        ("DELETE", f"{BASE}/nodes/node-0"),
    ]:
        assert web.client.open(path, method=method, headers=submitter).status_code in (401, 403)
        assert web.client.open(path, method=method).status_code == 401
    web.call("GET", "/v1/jobs/other", status=401, headers=submitter)


def test_with_authentication_off_only_the_inside_is_closed(tmp_path):
    stage = Stage(tmp_path, LIFL_AUTH="off")
    client = create_app(stage.coordinator).test_client()
    assert client.get("/v1/jobs").status_code == 200
    assert client.get(f"{BASE}/watch").status_code == 401
    stage.close()


# -- probes -------------------------------------------------------------------


def test_probes_and_metrics(web):
    web.start()
    web.plan()
    web.claim()
    assert web.client.get("/healthz").status_code == 200
    assert web.client.get("/readyz").status_code == 200
    text = web.client.get("/metrics").get_data(as_text=True)
    assert 'lifl_job_uploading{job="digits"} 1.0' in text
    assert 'lifl_job_registered{job="digits"} 1.0' in text
    assert 'endpoint="internal.claim",status="201"' in text


def test_a_store_that_is_away_is_not_ready(web, monkeypatch):
    from lifl.errors import Unavailable

    def away():
        raise Unavailable("gone", retry_after=3)

    monkeypatch.setattr(web.stage.store, "jobs", away)
    answer = web.client.get("/readyz")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")


def test_a_failure_of_our_own_says_nothing_of_the_inside(web, monkeypatch, caplog):
    def broken():
        raise ZeroDivisionError("the secret")

    monkeypatch.setattr(web.stage.coordinator.jobs, "statuses", broken)
    assert web.call("GET", "/v1/jobs", None, 500) == "internal-error"
    assert "the secret" in caplog.text


def test_a_nodes_name_may_have_dots(web):
    """As on Kubernetes, where they are DNS subdomains."""
    web.start()
    node = "ip-10-0-0-1.ec2.internal"
    web.post(f"{BASE}/nodes/{node}", {"gateway_url": "http://127.0.0.1:1/"})
    assert [n["node"] for n in web.call("GET", f"{BASE}/watch")["nodes"]] == [node]
    web.plan(clients={"c0": node})
    serial = web.claim(node=node)["claim"]
    web.seal(serial, node=node)
    assert web.claim("c1", 422, node="..") == "unusable"
    assert web.post(f"{BASE}/nodes/a..b", {"gateway_url": "http://127.0.0.1:1/"}, 422)
    assert web.call("DELETE", f"{BASE}/nodes/{node}")["known"]
