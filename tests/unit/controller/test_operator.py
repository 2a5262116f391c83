"""What kopf is told; how it fares with a real API server is in tests/kube."""

from __future__ import annotations

import logging
import time
from typing import Any, cast

import kopf
import pytest

from controller import operator
from controller.clients.api import Cluster as RealCluster
from controller.clients.connection import Login
from controller.clients.errors import Conflict, Forbidden
from controller.clients.kinds import Kind
from controller.cluster.federatedjob import SENDING, Custom, Step
from controller.jobsteps import GivesUp, Waits
from controller.jobwriter import StatusWriter
from controller.operator import Operator, _again
from controller.submission import SENT, SUBMITTED, Submission
from lifl.errors import LiflError, Unavailable

from .jobs_double import body


class Cluster:
    def __init__(self, **login: Any) -> None:
        self._login = Login("https://127.0.0.1:1", "", "", "", "", True)._replace(**login)

    def login(self) -> Login:
        return self._login

    def serves(self, kind: Kind) -> bool:
        return True


class Steps:
    """Notes what is done; ``fail`` maps a step to what it raises."""

    def __init__(self, **fail: LiflError) -> None:
        self.done: list[str] = []
        self.fail = fail

    def _do(self, step: str) -> None:
        self.done.append(step)
        if step in self.fail:
            raise self.fail[step]

    def submit(self, custom: Custom) -> Step:
        self._do("submit")
        return SUBMITTED

    def will_send(self, custom: Custom) -> bool:
        return True

    def send_model(self, custom: Custom) -> Step:
        self._do("send_model")
        return SENT

    def withdraw(self, custom: Custom) -> None:
        self._do("withdraw")


class Writer:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def seen(self, custom: Custom) -> None:
        self.told.append("seen")

    def leaving(self, uid: str) -> None:
        self.told.append("leaving")

    def forget(self, uid: str) -> None:
        self.told.append("forget")

    def stepped(
        self, custom: Custom, *, submitted: Step | None = None, model: Step | None = None
    ) -> None:
        self.told.append(submitted or model)


def made(steps: Steps, **login: Any) -> tuple[Operator, Writer]:
    writer = Writer()
    served = Operator(
        cast(RealCluster, Cluster(**login)),
        cast(Submission, steps),
        cast(StatusWriter, writer),
        namespaces=["lifl"],
    )
    return served, writer


def going(raw: dict[str, Any]) -> dict[str, Any]:
    return raw | {"metadata": raw["metadata"] | {"deletionTimestamp": "2026-11-26T10:00:00Z"}}


def test_both_steps_in_order() -> None:
    steps = Steps()
    served, writer = made(steps)
    served._submit(body=kopf.Body(body()), retry=0)
    assert steps.done == ["submit", "send_model"]
    assert writer.told == [SUBMITTED, SENDING, SENT]


@pytest.mark.parametrize(
    ("error", "raised", "reason"),
    [
        (Waits("NameTaken", "x"), kopf.TemporaryError, "NameTaken"),
        (GivesUp("InvalidSpec", "x"), kopf.PermanentError, "InvalidSpec"),
        (Unavailable("x"), kopf.TemporaryError, "ApiServer"),
        (Conflict("x"), kopf.TemporaryError, "ApiServer"),
        (Forbidden("x"), kopf.TemporaryError, "ApiServer"),
    ],
)
def test_a_step_that_is_not_done_is_told_and_ends_the_handler(
    error: LiflError, raised: type[Exception], reason: str
) -> None:
    steps = Steps(submit=error)
    served, writer = made(steps)
    with pytest.raises(raised):
        served._submit(body=kopf.Body(body()), retry=0)
    assert steps.done == ["submit"]
    assert [step.reason for step in writer.told] == [reason]


def test_a_deletion_is_told_first_and_waits_for_the_coordinator() -> None:
    steps = Steps(withdraw=Waits("CoordinatorUnavailable", "x"))
    served, writer = made(steps)
    with pytest.raises(kopf.TemporaryError):
        served._withdraw(body=kopf.Body(going(body())), retry=0)
    assert writer.told == ["leaving"]
    steps.fail.clear()
    served._withdraw(body=kopf.Body(going(body())), retry=1)
    assert steps.done == ["withdraw", "withdraw"]


def test_what_is_seen() -> None:
    served, writer = made(Steps())
    for type_, raw in ((None, body()), ("MODIFIED", going(body())), ("DELETED", going(body()))):
        served._seen(body=kopf.Body(raw), type=type_)
    assert writer.told == ["seen", "leaving", "forget"]


def test_pauses_grow_and_end() -> None:
    pauses = [_again(Waits("x", "x", 2.0), retry).delay for retry in range(20)]  # type: ignore[attr-defined]
    assert pauses[:3] == [2.0, 3.0, 4.5]
    assert pauses == sorted(pauses) and pauses[-1] == operator.LONGEST_SECONDS
    assert _again(Forbidden("x"), 0).delay == operator.ODD_SECONDS  # type: ignore[attr-defined]
    assert isinstance(_again(GivesUp("x", "x"), 0), kopf.PermanentError)


def test_it_logs_in_as_the_controllers_client() -> None:
    served, _ = made(Steps(), ca="/ca", authorization="Bearer abc")
    info = served._login()
    assert (info.server, info.ca_path, info.insecure) == ("https://127.0.0.1:1", "/ca", False)
    assert info.as_http_headers() == {"Authorization": "Bearer abc"}
    served, _ = made(Steps(), certificate="/c", key="/k", verify=False)
    info = served._login()
    assert (info.certificate_path, info.private_key_path, info.insecure) == ("/c", "/k", True)
    assert info.as_http_headers() == {}


def test_it_ends_at_once_while_no_api_server_answers(no_leaks: None) -> None:
    served, _ = made(Steps())
    served.start()
    assert served.wait(10)
    assert served.alive
    began = time.monotonic()
    served.stop()
    assert not served.alive
    assert time.monotonic() - began < 8.0
    made(Steps())[0].stop()  # one that was never started


@pytest.mark.parametrize("why", ["unknown", "away"])
def test_it_waits_until_the_kind_is_known(
    no_leaks: None, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(operator, "AGAIN_SECONDS", 0.02)
    asked = 0

    def serves(_: Cluster, kind: Kind) -> bool:
        nonlocal asked
        asked += 1
        if asked < 5 and why == "away":
            raise Unavailable("away")
        return asked >= 5

    monkeypatch.setattr(Cluster, "serves", serves)
    served, _ = made(Steps())
    served.start()
    assert served.wait(10)
    assert asked == 5
    served.stop()


def test_a_user_without_a_name_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod's user is a number that no file knows."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 10004")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setattr(Cluster, "serves", lambda *_: True)
    served, _ = made(Steps())
    served.start()
    try:
        assert served.wait(10)
    finally:
        served.stop()


def test_kopfs_words_are_the_operators() -> None:
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    ear = Ear()
    logging.getLogger("lifl.operator").addHandler(ear)
    try:
        operator._log_as_ours()
        operator._log_as_ours()
        kopfs = logging.getLogger("kopf._core.reactor.running")
        kopfs.warning("OS signals are ignored: running not in the main thread.")
        kopfs.info("quiet")
        kopfs.warning("loud")
    finally:
        logging.getLogger("lifl.operator").removeHandler(ear)
    assert heard == ["loud"]
