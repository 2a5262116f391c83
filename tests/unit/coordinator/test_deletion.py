"""Deleting jobs, submitting twice under one owner, and names that are used again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save

from functions.coordinator.problems import Refused
from functions.coordinator.records import JobRecord, JobState
from functions.coordinator.web import create_app
from lifl.auth import mint_submitter_token
from lifl.errors import Unavailable

from .kit import MODEL, Stage, job_file, until, update
from .test_web import BASE, PLATFORM, Web

OWNER = "0d4f3c8e-uid"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    stage = Stage(tmp_path)
    yield Web(stage, create_app(stage.coordinator).test_client())
    stage.close()


def delete(web: Web, status: int = 200, query: str = "", **options: Any) -> Any:
    return web.call("DELETE", f"/v1/jobs/digits{query}", None, status, **options)


def give_up(web: Web) -> bool:
    return bool(web.call("DELETE", f"{BASE}/jobs/digits")["known"])


def leaving(web: Web) -> list[str]:
    return list(web.call("GET", f"{BASE}/watch")["leaving"])


def commit_a_round(web: Web) -> None:
    web.plan()
    for i, client in enumerate(("c0", "c1")):
        serial = web.claim(client)["claim"]
        web.seal(serial)
        web.stage.agent.partial(web.view()["assignment"], {serial: (4, update(i))})
    until(lambda: web.view()["version"] == 1)


# -- owners -------------------------------------------------------------------


def test_the_same_owner_gets_the_same_job_again(web):
    body = {"spec": job_file(), "owner": OWNER}
    first = web.post("/v1/jobs", body, 201)
    assert web.post("/v1/jobs", body, 200) == first
    assert web.call("GET", "/v1/jobs/digits")["owner"] == OWNER
    web.client.put("/v1/jobs/digits/model", data=save(MODEL), headers=PLATFORM)
    again = web.post("/v1/jobs", body, 200)
    assert again == first | {"state": "running"}


def test_another_owner_and_another_spec_are_refused(web):
    web.post("/v1/jobs", {"spec": job_file(), "owner": OWNER}, 201)
    for owner in ("other", "", None):
        assert web.post("/v1/jobs", {"spec": job_file(), "owner": owner}, 409) == "job-exists"
    changed = {"spec": job_file(rounds=9), "owner": OWNER}
    assert web.post("/v1/jobs", changed, 409) == "other-spec"
    too_long = {"spec": job_file("x"), "owner": "o" * 254}
    assert web.post("/v1/jobs", too_long, 422) == "bad-member"


def test_without_an_owner_nothing_is_submitted_twice(web):
    web.submit()
    assert web.post("/v1/jobs", {"spec": job_file(), "owner": ""}, 409) == "job-exists"


def test_owners_survive_a_restart(tmp_path):
    stage = Stage(tmp_path)
    record, new = stage.coordinator.jobs.submit(job_file(), OWNER)
    assert new
    stage.restart()
    assert stage.coordinator.jobs.submit(job_file(), OWNER) == (record, False)
    stage.close()


def test_records_of_the_time_before_owners_are_read():
    raw = JobRecord("digits", {"spec": {}}, 12.5, "ab" * 32, 1000).to_json()
    del raw["owner"]
    assert JobRecord.from_json(json.loads(json.dumps(raw))).owner == ""


# -- deleting -----------------------------------------------------------------


def test_a_running_job_is_ended_and_forgotten(web):
    web.start()
    commit_a_round(web)
    folder = web.stage.settings.checkpoints / "digits"
    assert list(folder.iterdir())
    engine = web.stage.coordinator.jobs.engines["digits"]
    assert delete(web) == {"job": "digits", "state": "deleted"}
    assert not engine.is_alive() and not folder.exists()
    answer = web.call("GET", f"{BASE}/watch")
    assert (answer["jobs"], answer["leaving"]) == ([], ["digits"])
    assert web.call("GET", "/v1/jobs")["jobs"] == []
    for method, path in [
        ("GET", "/v1/jobs/digits"),
        ("GET", "/v1/jobs/digits/history"),
        ("GET", f"{BASE}/jobs/digits/model"),
        ("DELETE", "/v1/jobs/digits"),
    ]:
        assert web.call(method, path, None, 404) == "job-deleted"
    assert web.claim(status=404) == "job-deleted"
    assert web.stage.store.history("digits") == []
    assert web.stage.store.load("digits").round is None
    assert 'job="digits"' not in web.client.get("/metrics").get_data(as_text=True)


def test_the_name_is_free_when_no_node_has_the_pool_any_more(web):
    web.start()
    commit_a_round(web)
    key = web.view()["auth_key"]
    delete(web)
    answer = web.client.post("/v1/jobs", json={"spec": job_file()}, headers=PLATFORM)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert give_up(web)
    assert not give_up(web)
    assert leaving(web) == []
    assert web.call("GET", "/v1/jobs/digits", None, 404) == "no-such-job"
    web.stage.agent.close()
    view = web.start()
    assert (view["round"], view["version"], view["known"]) == (1, 0, [])
    assert view["auth_key"] != key
    assert web.stage.store.history("digits") == []
    commit_a_round(web)


def test_a_job_without_a_model_leaves_nothing(web):
    web.submit()
    delete(web)
    assert leaving(web) == []
    web.submit()


def test_a_refused_model_leaves_nothing_either(web):
    web.submit()
    web.client.put("/v1/jobs/digits/model", data=b"nonsense", headers=PLATFORM)
    folder = web.stage.settings.checkpoints / "digits"
    assert folder.exists()
    delete(web)
    assert not folder.exists()
    web.submit()


def test_a_job_that_is_over_is_deleted_too(web):
    web.start()
    web.post("/v1/jobs/digits/stop", None)
    delete(web)
    assert leaving(web) == ["digits"]


def test_only_the_owner_if_one_is_named(web):
    web.post("/v1/jobs", {"spec": job_file(), "owner": OWNER}, 201)
    assert delete(web, 409, "?owner=other") == "other-owner"
    assert web.call("GET", "/v1/jobs/digits")["state"] == "submitted"
    delete(web, query=f"?owner={OWNER}")
    web.submit()
    assert delete(web, 409, f"?owner={OWNER}") == "other-owner"
    delete(web)


def test_who_may_delete(web):
    key = bytes.fromhex(web.submit()["auth_key"])
    delete(web, 401, headers={})
    wrong = mint_submitter_token(b"x" * 32, "digits")
    delete(web, 401, headers={"Authorization": f"Bearer {wrong}"})
    assert web.client.delete(f"{BASE}/jobs/digits").status_code == 401
    right = mint_submitter_token(key, "digits")
    delete(web, headers={"Authorization": f"Bearer {right}"})


def test_a_successor_goes_on_with_a_deletion(tmp_path):
    stage = Stage(tmp_path)
    web = Web(stage, create_app(stage.coordinator).test_client())
    web.start()
    delete(web)
    folder = stage.settings.checkpoints / "digits"
    folder.mkdir()
    (folder / "v000001.safetensors").touch()  # as if killed before the files went
    stage.restart()
    web = Web(stage, create_app(stage.coordinator).test_client())
    assert leaving(web) == ["digits"] and not folder.exists()
    with pytest.raises(Unavailable, match="being deleted"):
        stage.coordinator.jobs.submit(job_file())
    assert give_up(web)
    stage.restart()
    assert stage.coordinator.jobs.submit(job_file())[1]
    stage.close()


def test_a_successor_frees_the_name_of_a_job_that_never_had_a_pool(tmp_path):
    stage = Stage(tmp_path)
    marker = JobRecord("digits", {}, 1.0, "", 1, JobState.DELETED)
    stage.store.remove_job("digits", marker)
    stage.restart()
    assert stage.store.jobs() == []
    assert stage.coordinator.jobs.submit(job_file())[1]
    stage.close()


def test_a_store_that_is_away_changes_nothing(web, monkeypatch):
    web.start()

    def away(*_: object) -> None:
        raise Unavailable("gone")

    monkeypatch.setattr(web.stage.store, "remove_job", away)
    assert delete(web, 503) == "try-again"
    assert web.call("GET", "/v1/jobs/digits")["state"] == "stopped"
    assert (web.stage.settings.checkpoints / "digits").exists()
    monkeypatch.undo()
    delete(web)
    assert leaving(web) == ["digits"]


def test_not_while_the_model_is_being_received(tmp_path):
    stage = Stage(tmp_path)
    stage.coordinator.jobs.submit(job_file())
    raw, begun, go_on = save(MODEL), threading.Event(), threading.Event()
    sent = 0

    def read(count: int) -> bytes:
        nonlocal sent
        begun.set()
        assert go_on.wait(10)
        sent += count
        return raw[sent - count : sent]

    upload = threading.Thread(
        target=lambda: stage.coordinator.jobs.receive_model("digits", len(raw), read)
    )
    upload.start()
    assert begun.wait(10)
    with pytest.raises(Unavailable, match="model is being received"):
        stage.coordinator.jobs.delete("digits")
    go_on.set()
    upload.join()
    stage.agent.create(stage.coordinator.jobs.record("digits").geometry or {})
    stage.coordinator.jobs.delete("digits")
    stage.close()


def test_who_still_holds_the_job_writes_nothing_into_its_successor(tmp_path):
    stage = Stage(tmp_path)
    job = stage.submit()
    stage.coordinator.jobs.delete("digits")
    stage.coordinator.jobs.given_up("digits")
    stage.coordinator.jobs.submit(job_file())
    job.learn(["late-comer"])
    job.tick()
    job.node_lost("node-0")
    snapshot = stage.store.load("digits")
    assert (snapshot.round, list(snapshot.clients)) == (None, [])
    assert stage.coordinator.jobs.record("digits").state is JobState.SUBMITTED
    stage.close()


def test_a_name_may_be_used_again_and_again(tmp_path):
    stage = Stage(tmp_path)
    for _ in range(3):
        stage.submit()
        stage.coordinator.jobs.delete("digits")
        stage.coordinator.jobs.given_up("digits")
        stage.agent.close()
    with pytest.raises(Refused):
        stage.coordinator.jobs.record("digits")
    stage.coordinator.close()


def test_no_two_jobs_get_one_user(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    stage = Stage(tmp_path, LIFL_DOMAIN_UID="7000")
    coordinator = stage.coordinator
    uids = {n: coordinator.jobs.submit(job_file(n))[0].domain_uid for n in ("a", "b", "c")}
    assert uids == {"a": 7000, "b": 7001, "c": 7002}
    coordinator.jobs.delete("a")
    assert coordinator.jobs.submit(job_file("d"))[0].domain_uid == 7003
    stage.submit(job_file("e"))
    coordinator.jobs.delete("e")
    # e's processes may still run
    assert coordinator.jobs.submit(job_file("f"))[0].domain_uid == 7005
    coordinator.jobs.given_up("e")
    coordinator.jobs.delete("f")
    assert coordinator.jobs.submit(job_file("g"))[0].domain_uid == 7004
    stage.close()


def test_scores_are_told_to_watchers(web):
    web.start()
    commit_a_round(web)
    revisions = web.stage.coordinator.revisions
    before = revisions.revision
    web.post("/v1/jobs/digits/evaluations", {"version": 1, "accuracy": 0.5}, 201)
    assert revisions.wait(before, 5) != before


def test_history_after_a_version(web):
    web.start()
    commit_a_round(web)
    path = "/v1/jobs/digits/history"
    assert [r["version"] for r in web.call("GET", path)["rounds"]] == [1]
    assert [r["version"] for r in web.call("GET", f"{path}?after=0")["rounds"]] == [1]
    assert web.call("GET", f"{path}?after=1")["rounds"] == []
    assert web.call("GET", f"{path}?after=x", None, 422) == "bad-query"


def test_markers_do_not_keep_secrets(tmp_path):
    stage = Stage(tmp_path)
    stage.submit()
    stage.coordinator.jobs.delete("digits")
    (marker,) = stage.store.jobs()
    assert (marker.spec, marker.auth_key, marker.schema) == ({}, "", None)
    stage.close()
