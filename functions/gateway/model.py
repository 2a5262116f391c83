"""The present model of each job, out of shared memory to any number of readers.

Why: the model lies sealed in the coordinator's node's pool; there it is sent
with ``sendfile``, no byte of it passing through this process. A gateway of
another node fetches it once per version into its own pool. A pin is one bit per
function, so readers are counted here and the pin is taken for all of them.

It must not know rounds, and must not keep a model that no view names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

from gevent.lock import BoundedSemaphore
from gevent.socket import socket as GeventSocket
from gevent.socket import wait_write

from functions.gateway.attach import Attachment, Attachments
from functions.gateway.pauses import let_others_run
from functions.gateway.problems import Refused
from functions.gateway.views import JobView, ModelPlace
from lifl.client.http import HttpClient
from lifl.errors import Fenced, StaleObject, Unavailable
from lifl.store import Pool, Seal, SlotKind, SlotRef

SEND_PIECE = 4 << 20
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})\Z")


class _Copy:
    """A model pinned in this node's pool, until it is dismissed and its last reader has gone.

    ``own`` says that this gateway fetched it and must retire it.
    """

    def __init__(self, attachment: Attachment, version: int, ref: SlotRef, *, own: bool) -> None:
        entry = attachment.pool.pin(ref, attachment.lane)
        self.attachment = attachment
        self.version = version
        self.ref = ref
        self.nbytes = entry.doc_bytes
        self.offset = attachment.pool.document_offset(ref.slot)
        self._own = own
        self._users = 1

    @contextlib.contextmanager
    def read(self) -> Iterator[Pool]:
        """Keep the model where it is while it is read."""
        self._users += 1
        try:
            with self.attachment.use() as pool:
                yield pool
        finally:
            self.dismiss()

    def dismiss(self) -> None:
        """Have one user less."""
        self._users -= 1
        if self._users:
            return
        pool, lane = self.attachment.pool, self.attachment.lane
        if self._own:
            with contextlib.suppress(StaleObject):
                pool.retire(self.ref)
        pool.unpin(self.ref, lane)


class _Shelf:
    """One job's copy; ``lock`` lets one reader fetch for all."""

    def __init__(self) -> None:
        self.copy: _Copy | None = None
        self.lock = BoundedSemaphore(1)


class ModelBody:
    """A range of a model as a response body that writes itself to the socket."""

    def __init__(self, copy: _Copy, start: int, length: int) -> None:
        self.length = length
        self._at = copy.offset + start
        self._reading = copy.read()
        self._fd = self._reading.__enter__().fd

    def send_to(self, sock: GeventSocket) -> None:
        """Write the range with sendfile; raises OSError or TimeoutError."""
        left, out = self.length, sock.fileno()
        while left:
            try:
                sent = os.sendfile(out, self._fd, self._at, min(left, SEND_PIECE))
            except BlockingIOError:
                wait_write(out, timeout=sock.gettimeout(), timeout_exc=TimeoutError())
                continue
            if not sent:  # what the table said of the object is not so
                raise ConnectionAbortedError(errno.ECONNABORTED, "the model ends early")
            self._at += sent
            left -= sent
            let_others_run()

    def close(self) -> None:
        """End the reading; gunicorn's contract for response bodies."""
        self._reading.__exit__(None, None, None)


class Models:
    """Every job's present model on this node.

    ``gateway(url)`` gives a client with the platform's token for another
    node's gateway.
    """

    def __init__(
        self, attachments: Attachments, node: str, gateway: Callable[[str], HttpClient]
    ) -> None:
        self._attachments = attachments
        self._node = node
        self._gateway = gateway
        self._shelves: dict[str, _Shelf] = {}

    def get(self, view: JobView) -> _Copy:
        """Return the view's model.

        Raises
        ------
        Unavailable
            if it is not here yet, or no longer.
        """
        if view.model is None:
            raise Unavailable(f"job {view.job} has no model yet", retry_after=1.0)
        attachment = self._attachments.get(view.job)
        shelf = self._shelves.setdefault(view.job, _Shelf())
        with shelf.lock:
            copy = shelf.copy
            if copy is None or copy.version != view.version or copy.attachment is not attachment:
                shelf.copy = self._place(attachment, view, view.model)
                if copy is not None:
                    copy.dismiss()
                copy = shelf.copy
            return copy

    def forget(self, job: str) -> None:
        """Let a job's model go when its last reader has."""
        shelf = self._shelves.pop(job, None)
        if shelf is not None and shelf.copy is not None:
            shelf.copy.dismiss()

    def changed(self, view: JobView) -> None:
        """Let a model go that is no longer the present one."""
        shelf = self._shelves.get(view.job)
        if shelf is not None and shelf.copy is not None and shelf.copy.version != view.version:
            self.forget(view.job)

    def _place(self, attachment: Attachment, view: JobView, place: ModelPlace) -> _Copy:
        try:
            if place.node == self._node:
                return _Copy(attachment, view.version, place.ref, own=False)
            ref = self._fetch(attachment, view, view.upload.get(place.node, ""))
            return _Copy(attachment, view.version, ref, own=True)
        except StaleObject as e:
            raise Unavailable("the model is being replaced; ask again", retry_after=0.2) from e

    def _fetch(self, attachment: Attachment, view: JobView, url: str) -> SlotRef:
        """Fetch the model from its node's gateway into a slot of this node's pool."""
        if not url or view.schema is None:
            raise Unavailable("the model's node is not known yet", retry_after=1.0)
        schema, owner = view.schema.schema, attachment.endpoint
        with attachment.use() as pool:
            ref = pool.reserve(SlotKind.MODEL, owner, 0)
            try:
                start = pool.geometry.meta_bytes - schema.float_start
                target = pool.slot_bytes(ref.slot)[start : start + schema.document_bytes]
                path = f"/v1/jobs/{quote(view.job)}/model?version={view.version}"
                self._gateway(url).read_into("GET", path, target)
                seal = Seal(view.version, 0.0, start, schema.document_bytes)
                pool.seal(ref, owner, seal)
            except BaseException:
                with contextlib.suppress(Fenced):
                    pool.drop(ref, owner)
                raise
        return ref


def byte_range(field: str | None, nbytes: int) -> tuple[int, int] | None:
    """Return ``(start, length)`` of a single range (RFC 9110), None to send everything.

    Several ranges, other units and malformed fields are ignored, as the RFC allows.

    Raises
    ------
    Refused
        416 if the range lies outside.
    """
    match = _RANGE.match(field or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, nbytes - int(last)), nbytes
    else:
        start = int(first)
        end = min(nbytes, int(last) + 1) if last else nbytes
        if last and int(last) < start:
            return None
    if start >= end:
        raise Refused(416, "range", f"the model has {nbytes} bytes", where="Range")
    return start, end - start
