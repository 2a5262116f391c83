"""The client's side of a job: poll, fetch, hand over to training, submit; whatever fails.

Why: gateways restart, nodes are lost and rounds close without asking the
client; its loop should see rounds and nothing else. It must not train, and
must not keep a copy of an update.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlencode, urlsplit

import numpy as np

from lifl import naming
from lifl.client import upload
from lifl.client.agenda import Action, Agenda
from lifl.client.download import Model, ModelCache
from lifl.client.http import HttpClient, HttpError, Token
from lifl.client.retry import Retry, was_answered
from lifl.client.round import About, Array, Receipt, Round, State, Task
from lifl.errors import Unavailable, UpdateError
from lifl.update import iter_document

if TYPE_CHECKING:
    import torch

log = logging.getLogger("lifl.client")

POLL_SECONDS = 25.0
GONE = frozenset({404, 410})
CONFLICT = 409
AGAIN = frozenset({"round-not-open", "claim-gone"})
"""Conflicts that pass: the round begins anew just now, or a gateway's restart undid the claim."""


class FederatedClient:
    """Takes part in one job as one client. Not for several threads at once.

    ``gateway`` is any gateway's base URL, ``token`` the client's bearer token
    (or a function that returns the present one). ``retry.patience`` bounds how
    long a silent platform is asked again before :class:`Unavailable` is
    raised. With ``digest`` each upload carries a SHA-256 ``Content-Digest``.
    ``ingress`` ("HOST:PORT") is connected to whatever URL is asked for: a cluster's way in,
    where its names are in no DNS.
    """

    def __init__(
        self,
        gateway: str,
        *,
        job: str,
        client: str,
        token: Token = None,
        retry: Retry | None = None,
        timeout: float = 60.0,
        poll_seconds: float = POLL_SECONDS,
        digest: bool = False,
        ingress: str = "",
    ) -> None:
        self.job = naming.check_name(job, "job")
        self.client = naming.check_client(client)
        self.state = "unknown"
        self._token = token
        self._timeout = timeout
        self._poll_seconds = poll_seconds
        self._digest = digest
        self._retry = retry or Retry()
        self._ingress = ingress
        self._gateway = HttpClient(
            gateway, token, timeout=timeout, ingress=ingress, by_reference=True
        )
        self._nodes: dict[str, HttpClient] = {}
        self._models = ModelCache(self._gateway, self._retry, timeout=timeout)
        self._kept: _Kept | None = None

    def __enter__(self) -> FederatedClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._gateway.close()
        for node in self._nodes.values():
            node.close()

    def latest(self) -> tuple[int, dict[str, Array]]:
        """Return the newest global model: its version and read-only arrays.

        Costs one conditional request if it is the model fetched last. Errors
        as in :meth:`rounds`.
        """
        model = self._models.fetch(f"/v1/jobs/{self.job}/model")
        return model.version, model.read_only()

    def rounds(self) -> Iterator[Round]:
        """Yield each round this client is chosen for, until the job is over.

        ``state`` then says how it ended: ``done`` or ``stopped``.

        Raises
        ------
        HttpError
            if the gateway refuses this client (401, 403) or knows no such job.
        Unavailable
            if it did not answer for longer than the retry's patience.
        """
        agenda, pace = Agenda(), _Pace(self._retry)
        while True:
            task = pace.poll(lambda: self._poll(agenda.after))
            self.state = task.state
            match agenda.judge(task, self._kept.round if self._kept else None):
                case Action.STOP:
                    return
                case Action.WAIT:
                    continue
                case Action.RESEND if self._resend(task):
                    agenda.finish(task.round)
                    continue
            model = self._model_of(task)
            if model is not None:
                pace.reset()
                yield self._round(task, model)
                agenda.finish(task.round)

    def _poll(self, after: int | None, wait: float | None = None) -> Task:
        wait = self._poll_seconds if wait is None else wait
        query = {"client": self.client, "wait": f"{wait:g}"}
        if after is not None:
            query["after"] = str(after)
        path = f"/v1/jobs/{self.job}/rounds/current?{urlencode(query)}"
        return Task.from_json(self._gateway.json("GET", path, timeout=wait + self._timeout))

    def _model_of(self, task: Task) -> Model | None:
        """Fetch the round's model; None if its version is gone because the round is over."""
        try:
            return self._models.version(task.version, task.model_url)
        except HttpError as e:
            if e.status not in GONE:
                raise
            log.warning("round %d: model version %d is gone: %s", task.round, task.version, e)
            return None

    def _round(self, task: Task, model: Model) -> Round:
        return Round(
            number=task.round,
            version=task.version,
            config=task.client_config,
            deadline_seconds=task.deadline_seconds,
            update_type=task.update_type,
            _model=model,
            _submit=partial(self._submit, task, model),
        )

    def _submit(self, task: Task, model: Model, state: State, about: About) -> Receipt:
        arrays = _arrays(state)
        if task.update_type == "delta" and not about.is_delta:
            arrays = upload.deltas(arrays, model.arrays)
        elif task.update_type != "delta" and about.is_delta:
            raise UpdateError(
                422,
                "wrong-update-type",
                f"the job sums {task.update_type}; it cannot take a difference",
                where=naming.HEADER_UPDATE_TYPE,
            )
        described = upload.headers(
            self.client,
            about.num_samples,
            base_version=task.version,
            update_type=task.update_type,
            metrics=about.metrics,
        )
        document = upload.Document(iter_document(arrays, model.schema))
        if self._digest:
            described["Content-Digest"] = document.digest()
        self._kept = None
        receipt = self._deliver(task, document, described)
        if receipt.accepted:
            document.remember()
            self._kept = _Kept(task.round, document, described)
        return receipt

    def _resend(self, task: Task) -> bool:
        """Send the kept update again; False if its arrays have changed since."""
        kept, self._kept = self._kept, None
        if kept is None or not kept.document.unchanged():
            log.warning("round %d: the update was lost and its arrays changed since", task.round)
            return False
        log.info("round %d: the update was lost; sending it again", task.round)
        if self._deliver(task, kept.document, kept.headers).accepted:
            self._kept = kept
        return True

    def _deliver(
        self, task: Task, document: upload.Document, described: Mapping[str, str]
    ) -> Receipt:
        attempts = self._retry.start()
        url = task.upload_url
        while True:
            try:
                node, path = self._node(url)
                answer = upload.post(node, path, document, described, self._timeout)
                return Receipt(True, bool(answer.get("duplicate")), answer.get("serial"))
            except HttpError as e:
                if e.status != CONFLICT:
                    raise
                if e.code in AGAIN:
                    attempts.pause(Unavailable(str(e)))
                    continue
                log.warning("round %d: the update does not count: %s", task.round, e)
                return Receipt(False, code=e.code, detail=e.detail)
            except Unavailable as e:
                attempts.pause(e)
                if not was_answered(e):
                    url = self._other_way(task, url)

    def _other_way(self, task: Task, url: str) -> str:
        """Ask where the update should go now; any gateway takes it if its node is silent."""
        try:
            now = self._poll(None, wait=0.0)
        except Unavailable:
            return url
        if now.round == task.round and now.upload_url != url:
            return now.upload_url
        return f"/v1/jobs/{self.job}/rounds/{task.round}/updates"

    def _node(self, url: str) -> tuple[HttpClient, str]:
        """Return the client of a URL's server, connections kept, and the path on it."""
        parts = urlsplit(url)
        if not parts.netloc:
            return self._gateway, url
        base = f"{parts.scheme}://{parts.netloc}"
        if base not in self._nodes:
            self._nodes[base] = HttpClient(
                base,
                self._token,
                timeout=self._timeout,
                ingress=self._ingress,
                by_reference=True,
            )
        return self._nodes[base], parts.path


class _Kept(NamedTuple):
    """An accepted update, kept for the case that its node is lost."""

    round: int
    document: upload.Document
    headers: Mapping[str, str]


class _Pace:
    """Keeps a client from polling hot when a gateway answers at once again and again."""

    QUICK_SECONDS = 0.5
    FREE = 2

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._quick = 0

    def reset(self) -> None:
        """Note that the last answer was worth asking for."""
        self._quick = 0

    def poll(self, ask: Callable[[], Task]) -> Task:
        if self._quick > self.FREE:
            bounds = self._retry.backoff
            self._retry.sleep(bounds.delay(self._quick - self.FREE, None, self._retry.draw()))
        began = self._retry.clock()
        task = self._retry.run(ask)
        is_quick = self._retry.clock() - began < self.QUICK_SECONDS
        self._quick = self._quick + 1 if is_quick else 0
        return task


def _arrays(state: State) -> Mapping[str, Array]:
    """Return numpy arrays as they are, torch tensors as arrays that share their memory."""
    if any(type(value).__module__.partition(".")[0] == "torch" for value in state.values()):
        from lifl.client.torch import arrays_of

        return arrays_of(cast("Mapping[str, torch.Tensor]", state))
    return {name: np.asarray(value) for name, value in state.items()}
