"""A FederatedJob's steps: submit it, keep its key, send its model, take it back.

Why: an operator may be killed anywhere and does every step again from its beginning;
what has happened already is found at the coordinator and in the API server. The job is
submitted under the object's uid, so that submitting again gives the same job and its
key. It must not know kopf, nor write status: a step says how far it came.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from controller.clients.api import Cluster
from controller.clients.kinds import SECRET
from controller.cluster.federatedjob import NOT_YET, OVER, Custom, Step, awaiting_model, steps_of
from controller.jobsteps import RARE_SECONDS, GivesUp, Waits
from controller.modelsource import ANY_URL, Model, ModelSource
from lifl.auth import mint_platform_token
from lifl.client.http import HttpClient, HttpError, raise_for_status
from lifl.errors import PermanentError, TemporaryError, Unavailable
from lifl.naming import MEDIA_SAFETENSORS

SUBMITTED = Step(True, "Submitted", "the coordinator has the job")
SENT = Step(True, "ModelReceived", "the job has its initial model")
SEND_SECONDS = 300.0


class Submission:
    """The steps; safe for several threads.

    ``model_urls`` are the beginnings of the URLs that models may be fetched from, which is
    done from inside the cluster; ``gateway`` is the URL that people are told to send a
    model to. Every step may also raise what :class:`controller.clients.api.Cluster` does.
    """

    def __init__(
        self,
        cluster: Cluster,
        coordinator_url: str,
        secret: bytes,
        *,
        gateway: str = "",
        model_urls: Sequence[str] = ANY_URL,
    ) -> None:
        self._cluster = cluster
        self._gateway = gateway
        self._models = ModelSource(cluster, model_urls)

        def token() -> str:
            return mint_platform_token(secret, "operator")

        self._http = HttpClient(coordinator_url, token if secret else None, connections=4)

    def close(self) -> None:
        """Close the idle connections."""
        self._http.close()

    # -- steps -----------------------------------------------------------------------

    def submit(self, custom: Custom) -> Step:
        """Submit the job, unless that was done, and keep its key in its Secret.

        Raises
        ------
        Waits, GivesUp
            with the step to show.
        """
        done = steps_of(custom.status)[0].done
        if custom.status.get("phase") in OVER or (done and self._asked(custom) is None):
            return SUBMITTED  # a job that the coordinator has lost is not begun anew
        found = self._secret(custom)
        wanted = custom.secret(self._key(custom))
        if found is None:
            self._cluster.create(SECRET, wanted, custom.namespace)
        elif found.get("data") != wanted["data"]:
            change = {"data": wanted["data"]}
            self._cluster.patch(SECRET, custom.secret_name, change, custom.namespace)
        return SUBMITTED

    def send_model(self, custom: Custom) -> Step:
        """Send the initial model, if it can be had from here and was not sent before.

        Raises
        ------
        Waits, GivesUp
            with the step to show.
        """
        job = self._asked(custom)
        if job is None or job["state"] != "submitted":
            return SENT
        if not self._models.has(custom):
            return awaiting_model(custom.name, self._gateway)
        with self._models.open(custom) as model:
            self._put(custom, model)
        return SENT

    def will_send(self, custom: Custom) -> bool:
        """Whether the model is sent from here and nothing was said about that yet."""
        return self._models.has(custom) and steps_of(custom.status)[1] == NOT_YET

    def withdraw(self, custom: Custom) -> None:
        """End the job and have it forgotten; it may be gone already, or never was there.

        Raises
        ------
        Waits
            with the step to show.
        """
        with contextlib.suppress(_NotOurs):
            self._ask("DELETE", f"{_path(custom)}?owner={quote(custom.uid, safe='')}")
        found = self._cluster.find(SECRET, custom.secret_name, custom.namespace)
        if found is not None and custom.owns(found):
            self._remove(custom, found)

    # -- looking ---------------------------------------------------------------------

    def look(self, custom: Custom) -> Mapping[str, Any] | None:
        """Return the coordinator's status of the job, None if it has none of this owner.

        Raises
        ------
        Unavailable, HttpError
            if it does not answer, or does not let us ask.
        """
        try:
            job: Mapping[str, Any] = self._http.json("GET", _path(custom))
        except HttpError as e:
            if e.status == 404:
                return None
            raise
        return job if job.get("owner") == custom.uid else None

    def rounds(self, custom: Custom, after: int) -> list[Mapping[str, Any]]:
        """Return the committed rounds of versions above ``after``; errors as of :meth:`look`."""
        answer = self._http.json("GET", f"{_path(custom)}/history?after={max(after, -1)}")
        return list(answer["rounds"])

    # -- inside ----------------------------------------------------------------------

    def _asked(self, custom: Custom) -> Mapping[str, Any] | None:
        with contextlib.suppress(_NotOurs):
            job: Mapping[str, Any] = self._ask("GET", _path(custom))
            return job if job.get("owner") == custom.uid else None
        return None

    def _secret(self, custom: Custom) -> Mapping[str, Any] | None:
        """Return the job's Secret, if it is there; that of an earlier job of the name goes."""
        found = self._cluster.find(SECRET, custom.secret_name, custom.namespace)
        if found is None or custom.owns(found):
            return found
        if not custom.succeeds(found):
            message = f"the Secret {custom.secret_name} is not this job's; remove or rename it"
            raise Waits("KeySecretTaken", message, RARE_SECONDS)
        self._remove(custom, found)
        return None

    def _remove(self, custom: Custom, secret: Mapping[str, Any]) -> None:
        uid = str(secret["metadata"].get("uid", ""))
        self._cluster.delete(SECRET, custom.secret_name, custom.namespace, uid=uid)

    def _key(self, custom: Custom) -> str:
        """Submit the job, again or for the first time; return its key (hex)."""
        try:
            answer = self._ask("POST", "/v1/jobs", custom)
        except _OtherSpec:  # it was changed meanwhile, as old API servers allow: the first holds
            job = self._asked(custom)
            if job is None:
                raise Waits("Deleted", "the job was deleted while it was submitted") from None
            answer = self._ask("POST", "/v1/jobs", custom, job["spec"])
        return str(answer["auth_key"])

    def _ask(
        self, method: str, path: str, custom: Custom | None = None, document: Any = None
    ) -> Any:
        payload = None
        if custom is not None:
            payload = {"spec": document or custom.document, "owner": custom.uid}
        try:
            return self._http.json(method, path, payload)
        except Unavailable as e:
            raise Waits("CoordinatorUnavailable", str(e), e.retry_after) from e
        except HttpError as e:
            raise _meaning(e) from e

    def _put(self, custom: Custom, model: Model) -> None:
        headers = {"Content-Type": MEDIA_SAFETENSORS, "Content-Length": str(model.length)}
        path = f"{_path(custom)}/model"
        try:
            response = self._http.request(
                "PUT", path, body=model.pieces, headers=headers, timeout=SEND_SECONDS
            )
            raise_for_status(response)
        except Unavailable as e:
            raise Waits("ModelUnavailable", str(e), e.retry_after) from e
        except HttpError as e:
            if e.code == "model-on-its-way":
                raise Waits("ModelOnItsWay", e.detail) from e
            if e.status in (413, 422):
                raise GivesUp("ModelRefused", e.detail) from e
            if e.status not in (404, 409):
                raise _meaning(e) from e


class _NotOurs(PermanentError):
    """The coordinator has no such job, or it is somebody else's."""


class _OtherSpec(PermanentError):
    """The coordinator has the job, with another spec."""


def _meaning(error: HttpError) -> TemporaryError | PermanentError:
    """Return what a refusal of the coordinator means for a step."""
    match error.status, error.code:
        case 409, "job-exists":
            message = "the coordinator has another job of this name; choose another name"
            return GivesUp("NameTaken", message)
        case 409, "other-spec":
            return _OtherSpec(error.detail)
        case (404, _) | (409, "other-owner"):
            return _NotOurs(error.detail)
        case 422, _:
            return GivesUp("InvalidSpec", error.detail)
        case ((401 | 403), _):
            message = f"the coordinator does not know the controller's secret: {error.detail}"
            return Waits("Unauthorized", message, RARE_SECONDS)
        case _:
            return Waits("CoordinatorRefuses", str(error), RARE_SECONDS)


def _path(custom: Custom) -> str:
    return f"/v1/jobs/{quote(custom.name, safe='')}"
