"""An AdmissionReview in, an AdmissionReview out (admission.k8s.io/v1).

Why: apart from the server, so that every answer can be tested without one. A pod is
refused with words that reach who made it: `kubectl` shows them, and a ReplicaSet keeps
them as an event. An error of our own is a refusal too: a pod without its agent would
start and wait for ever. It must not do I/O.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from controller.cluster.inject import InjectSettings, patch
from controller.cluster.specs import Object, Refused

log = logging.getLogger("lifl.controller")

API_VERSION = "admission.k8s.io/v1"
Patch = Callable[[Mapping[str, Any], InjectSettings], list[Object]]


class BadReview(ValueError):
    """A request that is no review."""


def answer(body: bytes, settings: InjectSettings, patch_pod: Patch = patch) -> tuple[bytes, str]:
    """Return the review to answer with, and its outcome: patched, unchanged, refused or failed.

    Raises
    ------
    BadReview
        if ``body`` is no review of version v1.
    """
    request = _request(body)
    response: Object = {"uid": request["uid"], "allowed": True}
    kind = request.get("kind")
    asked = isinstance(kind, dict) and kind.get("kind") == "Pod" and not request.get("subResource")
    outcome = "unchanged"
    if asked and request.get("operation") == "CREATE":
        try:
            operations = patch_pod(request["object"], settings)
        except Refused as e:
            outcome = "refused"
            response |= _denied(422, "Invalid", f"LIFL cannot run this pod: {e}")
        except Exception as e:
            log.exception("the pod of review %s cannot be completed", request["uid"])
            outcome = "failed"
            words = f"LIFL's webhook failed at this pod ({e!r}); the controller's log says more"
            response |= _denied(500, "InternalError", words)
        else:
            if operations:
                outcome = "patched"
                raw = json.dumps(operations).encode()
                response |= {"patchType": "JSONPatch", "patch": base64.b64encode(raw).decode()}
    review = {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    return json.dumps(review).encode(), outcome


def _denied(code: int, reason: str, message: str) -> Object:
    status = {"status": "Failure", "code": code, "reason": reason, "message": message[:2000]}
    return {"allowed": False, "status": status}


def _request(body: bytes) -> Object:
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise BadReview(f"the body is no JSON: {e}") from e
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise BadReview("the body is no AdmissionReview")
    if review.get("apiVersion") != API_VERSION:
        raise BadReview(
            f"the review is of {str(review.get('apiVersion'))[:80]!r}; {API_VERSION} is understood"
        )
    request = review.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise BadReview("the review has no request with a uid")
    return request
