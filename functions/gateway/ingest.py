"""An update's way in: claimed, received, counted, sealed, announced.

Why the order: the coordinator counts an update (``sealed``) when all its bytes
are in and checked, *before* the pool's seal makes it visible; so nobody can
aggregate what was not accepted. From that moment the gateway must seal it,
whatever becomes of the request; if the gateway dies in between, its successor's
inventory tells the coordinator, and the client is asked again. Only then is the
client answered. Any failure before frees the slot and gives the claim back.

When the coordinator is asked is for :mod:`functions.gateway.admission` to know. It
must not parse HTTP, and must not know rounds' rules.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import gevent

from functions.gateway.admission import Admission, Coordinator, Receipt, same
from functions.gateway.attach import Attachment, Attachments
from functions.gateway.body import RequestBody
from functions.gateway.later import Later
from functions.gateway.receive import Document, Hashes, Limits, compare, receive
from functions.gateway.upload import UploadHead
from functions.gateway.views import JobView
from lifl import crash
from lifl.errors import Fenced, LiflError, PoolFull, Unavailable
from lifl.store import Pool, Seal, SlotKind, SlotRef
from lifl.wire import Descriptor, Opcode, pages_of

CONFIRM_SECONDS = 15.0
SLOT_SECONDS = 1.0
SLOT_PAUSE = 0.02
SLOT_WAITERS = 32
EARLY_BYTES = 16 << 20  # what comes while the coordinator prepares to be asked


@dataclass(slots=True)
class _Upload:
    """One upload on its way."""

    view: JobView
    head: UploadHead
    body: RequestBody
    limits: Limits
    hashes: Hashes
    admission: Admission


class Ingest:
    """Takes uploads for every job of this node."""

    def __init__(
        self, coordinator: Coordinator, attachments: Attachments, node: str, boot: str
    ) -> None:
        self._coordinator = coordinator
        self._attachments = attachments
        self._node = node
        self._boot = boot
        self._bodies: dict[tuple[str, str], RequestBody] = {}
        self._hoping = 0

    def take(self, view: JobView, number: int, head: UploadHead, body: RequestBody) -> Receipt:
        """Take one upload for round ``number``.

        Raises
        ------
        LiflError
            of any kind; then nothing of the upload is left.
        """
        if view.schema is None:
            raise Unavailable(f"job {view.job} has no model yet", retry_after=1.0)
        attachment = self._attachments.get(view.job)
        limits = Limits(view.schema, attachment.pool.geometry)
        limits.check_length(body)
        asked = head.claim(view, number, self._node, body.length or 0)
        admission = Admission(self._coordinator, asked, view.assignment, self._boot)
        upload = _Upload(view, head, body, limits, Hashes(head.sha256), admission)
        if body.expects_continue or not _likely(view, number, head.client):
            admission.claim()
            if standing := admission.granted():
                with body:
                    return same(standing, compare(body, limits, upload.hashes))
        with self._newest(upload), attachment.use() as pool:
            try:
                ref = self._reserve(pool, attachment.endpoint, view.assignment)
            except LiflError:
                admission.withdraw()
                raise
            try:
                document = self._receive(upload, pool.slot_bytes(ref.slot))
                digest = upload.hashes.finish()
                crash.point("received")
                if standing := admission.granted():
                    _drop(pool, ref, attachment.endpoint)
                    return same(standing, digest)
            except BaseException:
                _drop(pool, ref, attachment.endpoint)
                admission.withdraw()
                raise
        settled = Later(lambda: self._settle(attachment, upload, ref, digest, document))
        try:
            return settled.get(CONFIRM_SECONDS)
        except TimeoutError:
            raise Unavailable("the coordinator does not answer; send the update again") from None

    def _reserve(self, pool: Pool, endpoint: int, assignment: int) -> SlotRef:
        """Reserve a slot; if there is none, a few uploads may wait a little for one.

        Raises
        ------
        PoolFull
            if none became free, or enough others wait.
        """
        deadline = time.monotonic() + SLOT_SECONDS
        self._hoping += 1
        try:
            while True:
                try:
                    return pool.reserve(SlotKind.UPDATE, endpoint, assignment, ingest=True)
                except PoolFull:
                    if self._hoping > SLOT_WAITERS or time.monotonic() > deadline:
                        raise
                gevent.sleep(SLOT_PAUSE)
        finally:
            self._hoping -= 1

    @staticmethod
    def _receive(upload: _Upload, slot: memoryview) -> Document:
        """Receive the body; stops early if a claim is asked for meanwhile and refused."""

        def between(left: int) -> None:
            upload.admission.check()
            if left <= EARLY_BYTES and upload.body.streams:
                upload.admission.begin()

        with upload.admission.slow(), upload.body:
            return receive(upload.body, slot, upload.limits, upload.hashes, between)

    @contextlib.contextmanager
    def _newest(self, upload: _Upload) -> Iterator[None]:
        """End an earlier upload of the same client: one client holds one slot, not all."""
        key = (upload.view.job, upload.head.client)
        earlier = self._bodies.get(key)
        if earlier is not None:
            earlier.supersede()
        self._bodies[key] = upload.body
        try:
            yield
        finally:
            if self._bodies.get(key) is upload.body:
                del self._bodies[key]

    def _settle(
        self,
        attachment: Attachment,
        upload: _Upload,
        ref: SlotRef,
        digest: str,
        document: Document,
    ) -> Receipt:
        """Have an update counted, make it visible, and tell a leaf.

        Goes on until there is an answer, for without one nobody knows whether
        the update counts.

        Raises
        ------
        LiflError
            if the coordinator does not count it, or counted another; the slot is free again.
        """
        if attachment.closed:  # since the last byte came in
            upload.admission.withdraw()
            raise Unavailable("this node lost the update; send it again")
        end = {"slot": ref.slot, "generation": ref.generation, "digest": digest}
        with attachment.use() as pool, attachment.gate.shared():
            try:
                receipt = upload.admission.count(end)
            except LiflError:
                _drop(pool, ref, attachment.endpoint)
                raise
            if receipt.duplicate:
                _drop(pool, ref, attachment.endpoint)
                return receipt
            crash.point("counted")
            seal = Seal(
                serial=receipt.serial,
                weight=float(upload.head.num_samples),
                doc_start=document.start,
                doc_bytes=document.nbytes,
                layout=document.layout,
                base_version=upload.view.version,
            )
            try:
                pool.seal(ref, attachment.endpoint, seal)
            except Fenced:
                self._attachments.recheck(attachment.job)
                raise Unavailable("this node lost the update; send it again") from None
            crash.point("visible")
            pages = pages_of(seal.doc_bytes)
            attachment.send(Descriptor(Opcode.OBJECT, *ref, upload.view.assignment, pages))
            crash.point("announced")
        return receipt


def _likely(view: JobView, number: int, client: str) -> bool:
    """Whether the coordinator will probably grant the claim."""
    return (
        view.state == "open"
        and number == view.round
        and view.chosen(client)
        and client not in view.accepted
    )


def _drop(pool: Pool, ref: SlotRef, owner: int) -> None:
    with contextlib.suppress(Fenced):
        pool.drop(ref, owner)
