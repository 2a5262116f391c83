"""A FederatedJob's steps, each done again from its beginning wherever it was interrupted."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from controller.clients.api import Cluster as RealCluster
from controller.clients.kinds import CONFIG_MAP, SECRET
from controller.cluster.federatedjob import Custom
from controller.jobsteps import GivesUp, Waits
from controller.submission import Submission
from lifl.errors import Unavailable

from .jobs_double import SPEC, Cluster, Coordinator, body

KEY = b"\x5a" * 32
MODEL = b"tensors" * 1000


class Rig:
    def __init__(self, **options: Any) -> None:
        self.cluster, self.coordinator = Cluster(), Coordinator()
        self.submission = Submission(
            cast(RealCluster, self.cluster), self.coordinator.url, KEY, **options
        )

    def custom(self, **members: Any) -> Custom:
        return Custom.parse(body(**members))

    def secret(self) -> dict[str, Any]:
        found = self.cluster.find(SECRET, "digits-key", "lifl")
        assert found is not None
        return found

    def close(self) -> None:
        self.submission.close()
        self.coordinator.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def with_model(**place: Any) -> Custom:
    return Custom.parse(body(spec=SPEC | {"model": place}))


def submitted_status() -> dict[str, Any]:
    condition = {"type": "Submitted", "status": "True", "reason": "Submitted", "message": ""}
    return {"phase": "Running", "conditions": [condition]}


# -- submitting ---------------------------------------------------------------------


def test_a_job_is_submitted_under_its_uid_and_its_key_kept(rig: Rig) -> None:
    assert rig.submission.submit(rig.custom()).done
    job = rig.coordinator.jobs["digits"]
    assert (job["owner"], job["spec"]) == ("u1", rig.custom().document)
    secret = rig.secret()
    assert base64.b64decode(secret["data"]["auth_key"]).decode() == job["auth_key"]
    assert rig.custom().owns(secret)


def test_again_it_is_the_same_job(rig: Rig) -> None:
    rig.submission.submit(rig.custom())
    before = (dict(rig.coordinator.jobs["digits"]), rig.secret())
    rig.submission.submit(rig.custom())
    rig.submission.submit(rig.custom(status=submitted_status()))
    assert (rig.coordinator.jobs["digits"], rig.secret()) == before
    assert rig.cluster.patches == []


def test_killed_before_the_key_was_kept(rig: Rig) -> None:
    rig.cluster.fail = Unavailable("killed here")
    with pytest.raises(Unavailable):
        rig.submission.submit(rig.custom())
    key = rig.coordinator.jobs["digits"]["auth_key"]
    rig.cluster.fail = None
    assert rig.submission.submit(rig.custom()).done
    assert base64.b64decode(rig.secret()["data"]["auth_key"]).decode() == key


def test_a_key_of_a_job_that_was_submitted_anew_is_replaced(rig: Rig) -> None:
    rig.cluster.create(SECRET, rig.custom().secret("00" * 32), "lifl")
    rig.submission.submit(rig.custom())
    key = rig.coordinator.jobs["digits"]["auth_key"]
    assert base64.b64decode(rig.secret()["data"]["auth_key"]).decode() == key


def test_somebody_elses_secret_is_left_alone_and_nothing_submitted(rig: Rig) -> None:
    other = {"metadata": {"name": "digits-key"}, "data": {"password": "eA=="}}
    rig.cluster.create(SECRET, other, "lifl")
    with pytest.raises(Waits) as e:
        rig.submission.submit(rig.custom())
    assert e.value.step.reason == "KeySecretTaken"
    assert rig.secret() == other and rig.coordinator.jobs == {}


def test_the_secret_of_an_earlier_job_of_the_name_makes_room(rig: Rig) -> None:
    earlier = rig.custom(uid="u0").secret("00" * 32)
    rig.cluster.create(SECRET, earlier, "lifl")
    rig.submission.submit(rig.custom())
    assert rig.custom().owns(rig.secret())


@pytest.mark.parametrize("phase", ["Complete", "Stopped", "Failed"])
def test_a_job_that_is_over_is_not_begun_anew(rig: Rig, phase: str) -> None:
    assert rig.submission.submit(rig.custom(status={"phase": phase})).done
    assert rig.coordinator.asked == []


def test_a_job_that_the_coordinator_has_lost_is_not_begun_anew(rig: Rig) -> None:
    assert rig.submission.submit(rig.custom(status=submitted_status())).done
    assert rig.coordinator.jobs == {}
    assert rig.submission.look(rig.custom()) is None


def test_a_spec_that_was_changed_before_the_key_was_kept(rig: Rig) -> None:
    """Where an API server lets it be changed the spec that was submitted first holds."""
    rig.cluster.fail = Unavailable("killed here")
    with pytest.raises(Unavailable):
        rig.submission.submit(rig.custom())
    rig.cluster.fail = None
    changed = rig.custom(spec=SPEC | {"rounds": 99})
    assert rig.submission.submit(changed).done
    assert rig.coordinator.jobs["digits"]["spec"] == rig.custom().document
    assert rig.secret()


@pytest.mark.parametrize(
    ("status", "code", "error", "reason"),
    [
        (409, "job-exists", GivesUp, "NameTaken"),
        (422, "invalid-job", GivesUp, "InvalidSpec"),
        (401, "token-invalid", Waits, "Unauthorized"),
        (403, "token-scope", Waits, "Unauthorized"),
        (418, "teapot", Waits, "CoordinatorRefuses"),
        (503, "try-again", Waits, "CoordinatorUnavailable"),
    ],
)
def test_what_a_refusal_means(
    rig: Rig, status: int, code: str, error: type[Exception], reason: str
) -> None:
    rig.coordinator.refuse["POST /v1/jobs"] = (status, {"code": code, "detail": "so it is"})
    with pytest.raises(error) as e:
        rig.submission.submit(rig.custom())
    step = e.value.step  # type: ignore[attr-defined]
    assert (step.done, step.reason, step.final) == (False, reason, error is GivesUp)
    assert rig.cluster.find(SECRET, "digits-key", "lifl") is None


def test_a_coordinator_that_is_away() -> None:
    rig = Rig()
    rig.close()
    with pytest.raises(Waits) as e:
        rig.submission.submit(rig.custom())
    assert e.value.step.reason == "CoordinatorUnavailable"


# -- the model ----------------------------------------------------------------------


def test_a_model_that_somebody_else_sends(rig: Rig) -> None:
    for custom in (rig.custom(), with_model(path="model.safetensors")):
        rig.submission.submit(custom) if not rig.coordinator.jobs else None
        step = rig.submission.send_model(custom)
        assert (step.done, step.reason) == (False, "AwaitingModel")
        assert not rig.submission.will_send(custom)


@pytest.mark.parametrize("member", ["binaryData", "data"])
def test_a_model_from_a_config_map(rig: Rig, member: str) -> None:
    raw = base64.b64encode(MODEL).decode() if member == "binaryData" else MODEL.decode()
    rig.cluster.create(CONFIG_MAP, {"metadata": {"name": "m"}, member: {"k": raw}}, "lifl")
    custom = with_model(configMap={"name": "m", "key": "k"})
    assert rig.submission.will_send(custom)
    rig.submission.submit(custom)
    assert rig.submission.send_model(custom).done
    assert rig.coordinator.jobs["digits"]["model"] == MODEL
    assert rig.submission.send_model(custom).done  # again
    assert len([a for a in rig.coordinator.asked if a.startswith("PUT")]) == 1


@pytest.mark.parametrize("found", [{}, {"binaryData": {"k": "not base64!"}}, {"data": {"x": ""}}])
def test_a_config_map_without_the_model(rig: Rig, found: dict[str, Any]) -> None:
    custom = with_model(configMap={"name": "m", "key": "k"})
    rig.submission.submit(custom)
    with pytest.raises(Waits, match="no ConfigMap m in namespace lifl"):
        rig.submission.send_model(custom)
    rig.cluster.create(CONFIG_MAP, {"metadata": {"name": "m"}, **found}, "lifl")
    with pytest.raises(Waits, match="no usable key k") as e:
        rig.submission.send_model(custom)
    assert e.value.step.reason == "ModelUnavailable"


class Files:
    """Serves MODEL; ``length`` False leaves its length out, ``cut`` ends it early."""

    def __init__(self, status: int = 200, *, length: bool = True, cut: bool = False) -> None:
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.send_response(status)
                if length:
                    self.send_header("Content-Length", str(len(MODEL)))
                self.end_headers()
                self.wfile.write(MODEL[: 100 if cut else None])

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/a/model?sig=secret"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def fetch(rig: Rig, files: Files) -> None:
    custom = with_model(url=files.url)
    rig.submission.submit(custom)
    try:
        rig.submission.send_model(custom)
    finally:
        files.close()


def test_a_model_from_a_url(rig: Rig) -> None:
    files = Files()
    fetch(rig, files)
    assert files.paths == ["/a/model?sig=secret"]
    assert rig.coordinator.jobs["digits"]["model"] == MODEL


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"status": 404}, "HTTP status 404"),
        ({"status": 302}, "HTTP status 302"),
        ({"length": False}, "Content-Length missing"),
        ({"cut": True}, "PUT"),
    ],
)
def test_a_url_without_the_model(rig: Rig, files: dict[str, Any], said: str) -> None:
    with pytest.raises(Waits, match=said) as e:
        fetch(rig, Files(**files))
    assert e.value.step.reason == "ModelUnavailable"
    assert "secret" not in e.value.step.message
    assert rig.coordinator.jobs["digits"]["state"] == "submitted"


def test_only_urls_that_the_platform_allows_are_fetched() -> None:
    rig = Rig(model_urls=("https://models.example/",))
    files = Files()
    with pytest.raises(GivesUp, match=r"https://models\.example/ only") as e:
        fetch(rig, files)
    assert files.paths == [] and "secret" not in e.value.step.message
    rig.close()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "nonsense"])
def test_other_schemes_are_refused(rig: Rig, url: str) -> None:
    custom = with_model(url=url)
    rig.submission.submit(custom)
    with pytest.raises(GivesUp):
        rig.submission.send_model(custom)


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (422, "bad-header", "ModelRefused"),
        (413, "too-large", "ModelRefused"),
        (409, "model-on-its-way", "ModelOnItsWay"),
        (503, "try-again", "ModelUnavailable"),
        (401, "token-invalid", "Unauthorized"),
    ],
)
def test_a_model_that_is_not_taken(rig: Rig, status: int, code: str, reason: str) -> None:
    rig.cluster.create(CONFIG_MAP, {"metadata": {"name": "m"}, "data": {"k": "x"}}, "lifl")
    custom = with_model(configMap={"name": "m", "key": "k"})
    rig.submission.submit(custom)
    rig.coordinator.refuse["PUT /v1/jobs/digits/model"] = (status, {"code": code, "detail": "why"})
    with pytest.raises((Waits, GivesUp)) as e:
        rig.submission.send_model(custom)
    assert e.value.step.reason == reason
    assert e.value.step.final == (reason == "ModelRefused")


# -- taking it back -----------------------------------------------------------------


def test_a_job_is_withdrawn_and_may_be_gone_already(rig: Rig) -> None:
    rig.submission.submit(rig.custom())
    rig.submission.withdraw(rig.custom())
    assert rig.coordinator.jobs == {}
    assert rig.cluster.find(SECRET, "digits-key", "lifl") is None
    rig.submission.withdraw(rig.custom())


def test_somebody_elses_job_is_not_withdrawn(rig: Rig) -> None:
    rig.submission.submit(rig.custom())
    rig.submission.withdraw(rig.custom(uid="u2"))
    assert "digits" in rig.coordinator.jobs and rig.secret()
    assert rig.submission.look(rig.custom(uid="u2")) is None


def test_a_withdrawal_waits_for_the_coordinator(rig: Rig) -> None:
    rig.coordinator.refuse["DELETE /v1/jobs/digits"] = (503, {"detail": "later"})
    with pytest.raises(Waits):
        rig.submission.withdraw(rig.custom())
