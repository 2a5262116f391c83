"""Reviews in, reviews out."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.admission import BadReview, answer
from controller.cluster.inject import InjectSettings, patch

from . import pods

SETTINGS = InjectSettings()


def review(pod: pods.Pod, **request: Any) -> dict[str, Any]:
    """Return what an API server sends for a pod that a ReplicaSet makes."""
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "lifl",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        }
        | request,
    }


def ask(document: object, **how: Any) -> tuple[dict[str, Any], str]:
    raw, outcome = answer(json.dumps(document).encode(), SETTINGS, **how)
    found = json.loads(raw)
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    return found["response"], outcome


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_pod_is_patched(dry_run):
    response, outcome = ask(review(pods.knative(), dryRun=dry_run))
    assert (response["uid"], outcome) == ("705ab4f5-6393-11e8-b7cc-42010a800002", "patched")
    assert (response["allowed"], response["patchType"]) == (True, "JSONPatch")
    operations = json.loads(base64.b64decode(response["patch"]))
    assert operations == patch(pods.knative())


def test_a_complete_pod_is_left_alone():
    made = jsonpatch.apply_patch(pods.plain(), patch(pods.plain()))
    response, outcome = ask(review(made))
    assert outcome == "unchanged"
    assert response == {"uid": response["uid"], "allowed": True}


@pytest.mark.parametrize(
    "request_",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"subResource": "eviction"},
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
        {"kind": None},
    ],
)
def test_what_it_was_not_asked_for_passes(request_):
    response, outcome = ask(review(pods.knative(), **request_))
    assert (response["allowed"], outcome) == (True, "unchanged")
    assert "patch" not in response


def test_a_refusal_says_why():
    response, outcome = ask(review(pods.plain("leaf")))
    assert (response["allowed"], outcome) == (False, "refused")
    assert response["status"]["code"] == 422
    assert "'leaf' is none of aggregator" in response["status"]["message"]
    assert "patch" not in response


def test_an_error_of_ours_is_a_refusal_that_says_so(caplog):
    def broken(_pod: object, _settings: object) -> list[dict[str, Any]]:
        raise ZeroDivisionError("by nought")

    response, outcome = ask(review(pods.plain()), patch_pod=broken)
    assert (response["allowed"], outcome) == (False, "failed")
    assert response["status"]["code"] == 500
    assert "ZeroDivisionError('by nought')" in response["status"]["message"]
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("pod", [None, {}, [], {"metadata": {}, "spec": {}}, "x"])
def test_an_object_that_is_no_pod_is_an_error_of_somebodys(pod):
    response, outcome = ask(review(pod))
    assert response["allowed"] is (outcome == "unchanged")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no AdmissionReview"),
        (b'{"kind": "Pod"}', "no AdmissionReview"),
        (
            b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}',
            "'admission.k8s.io/v1beta1'; admission.k8s.io/v1 is understood",
        ),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}', "no request"),
        (
            b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":1}}',
            "no request with a uid",
        ),
    ],
)
def test_what_is_no_review_is_said(body, words):
    with pytest.raises(BadReview, match=words):
        answer(body, SETTINGS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "request", "uid", "object", "spec", "metadata", "labels"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_any_json_has_an_answer(found, wrap):
    document = review(found) if wrap else found
    try:
        response, outcome = ask(document)
    except BadReview:
        return
    assert response["allowed"] is (outcome in {"patched", "unchanged"})
