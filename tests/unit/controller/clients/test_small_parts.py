"""Paths of kinds, errors of answers, and events that are counted."""

from __future__ import annotations

import json

import pytest

from controller.clients import errors
from controller.clients.events import REMEMBERED, Recorder
from controller.clients.kinds import LEASE, NODE, POD, POD_AUTOSCALER, Kind
from lifl.errors import LiflError, PermanentError, TemporaryError, Unavailable


@pytest.mark.parametrize(
    ("kind", "arguments", "path"),
    [
        (POD, (), "/api/v1/pods"),
        (POD, ("", "lifl"), "/api/v1/namespaces/lifl/pods"),
        (POD, ("a", "lifl", "binding"), "/api/v1/namespaces/lifl/pods/a/binding"),
        (NODE, ("n.example",), "/api/v1/nodes/n.example"),
        (NODE, ("a/b",), "/api/v1/nodes/a%2Fb"),
        (LEASE, ("l", "s"), "/apis/coordination.k8s.io/v1/namespaces/s/leases/l"),
        (
            POD_AUTOSCALER,
            ("p", "n", "status"),
            "/apis/autoscaling.internal.knative.dev/v1alpha1/namespaces/n/podautoscalers/p/status",
        ),
    ],
)
def test_paths(kind: Kind, arguments: tuple[str, ...], path: str) -> None:
    assert kind.path(*arguments) == path


@pytest.mark.parametrize(
    ("status", "reason", "expected", "again"),
    [
        (404, "NotFound", errors.NotFound, PermanentError),
        (409, "AlreadyExists", errors.Exists, PermanentError),
        (409, "Conflict", errors.Conflict, TemporaryError),
        (410, "Expired", errors.Expired, TemporaryError),
        (403, "Forbidden", errors.Forbidden, PermanentError),
        (401, "Unauthorized", errors.Forbidden, PermanentError),
        (422, "Invalid", errors.ApiError, PermanentError),
        (429, "TooManyRequests", Unavailable, TemporaryError),
        (503, "ServiceUnavailable", Unavailable, TemporaryError),
    ],
)
def test_an_answer_says_whether_to_try_again(
    status: int, reason: str, expected: type[LiflError], again: type[LiflError]
) -> None:
    body = json.dumps({"reason": reason, "message": 'pods "a" is what it is'}).encode()
    error = errors.of(status, body, "get pod a")
    assert type(error) is expected
    assert isinstance(error, again)
    assert str(error) == 'get pod a: pods "a" is what it is'


def test_an_answer_that_is_no_status_is_quoted_and_cut() -> None:
    assert str(errors.of(502, b"<html>bad gateway</html>", "list pods")).endswith("</html>")
    assert len(str(errors.of(500, b"x" * 100_000, "list pods"))) < errors.WORDS + 100
    assert str(errors.of(500, b"", "list pods")) == "list pods: HTTP status 500"
    assert "[1]" in str(errors.of(500, b"[1]", "list pods"))


ABOUT = {"apiVersion": "v1", "kind": "Pod", "name": "a", "namespace": "lifl", "uid": "u1"}


def test_the_same_event_again_is_counted() -> None:
    recorder = Recorder()

    def note(message: str, about: dict[str, str] = ABOUT) -> tuple[str, dict[str, object]]:
        return recorder.note(about, "Scheduled", message, warning=False, component="c")

    method, first = note("to n1")
    assert (method, first["count"], first["type"]) == ("POST", 1, "Normal")
    method, again = note("to n1")
    assert (method, again["count"]) == ("PATCH", 2)
    assert again["metadata"] == first["metadata"]
    assert note("to n2")[0] == "POST"
    assert note("to n1", ABOUT | {"uid": "u2"})[0] == "POST"


def test_old_events_are_forgotten() -> None:
    recorder = Recorder()
    for i in range(REMEMBERED + 1):
        recorder.note(ABOUT, "R", str(i), warning=True, component="c")
    assert recorder.note(ABOUT, "R", "0", warning=True, component="c")[0] == "POST"
    assert recorder.note(ABOUT, "R", str(REMEMBERED), warning=True, component="c")[0] == "PATCH"


def test_an_event_about_a_node_is_kept_in_the_default_namespace() -> None:
    about = {"apiVersion": "v1", "kind": "Node", "name": "n1", "namespace": "", "uid": "u"}
    _, event = Recorder().note(about, "R", "m", warning=True, component="c")
    assert event["metadata"]["namespace"] == "default"
    assert "namespace" not in event["involvedObject"]
