"""Partial sums from node to node, each once.

Why: a partial whose parent is on another node is handed to this gateway like
any object; it takes it, streams it out of shared memory to the parent's
gateway, and frees it when that one has sealed it. Sending again is safe: the
coordinator knows each transfer by its serial, and the lease on the object ends
only with an answer.

On the wire: ``PUT /internal/v1/transfers/{job}/{assignment}/{serial}`` with the
platform's token; headers ``LIFL-From`` (node), ``LIFL-Cover-Count`` n,
``LIFL-Weight`` (Σ n as a C99 hex float), ``LIFL-Layout``; the body is the cover,
n little-endian u64, then the partial's document (canonical, its floats sums or,
with layout 2, means). The receiver answers 200, whether it arrived now or before.

It must not add, and must not decide where the parent is: the plan does.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import gevent
import numpy as np
from werkzeug.datastructures import Headers

from functions.gateway.attach import Attachment, Attachments
from functions.gateway.body import RequestBody
from functions.gateway.later import backoff, patiently
from functions.gateway.problems import Refused
from functions.gateway.receive import PIECE
from functions.gateway.views import JobView
from lifl.client.http import HttpClient, HttpError, raise_for_status
from lifl.errors import AlreadyTaken, Fenced, StaleObject, Unavailable
from lifl.store import Pool, Seal, SlotEntry, SlotKind, SlotRef
from lifl.wire import Descriptor, Opcode

log = logging.getLogger("lifl.gateway")

HEADER_FROM = "LIFL-From"
HEADER_COUNT = "LIFL-Cover-Count"
HEADER_WEIGHT = "LIFL-Weight"
HEADER_LAYOUT = "LIFL-Layout"
SERIAL_BYTES = 8


@dataclass(frozen=True, slots=True)
class TransferHead:
    """What a transfer says of itself."""

    source: str
    count: int
    weight: float
    layout: int

    def headers(self, nbytes: int) -> dict[str, str]:
        """Return the header fields of a body of ``nbytes``."""
        return {
            HEADER_FROM: self.source,
            HEADER_COUNT: str(self.count),
            HEADER_WEIGHT: self.weight.hex(),
            HEADER_LAYOUT: str(self.layout),
            "Content-Length": str(nbytes),
            "Content-Type": "application/octet-stream",
        }

    @classmethod
    def read(cls, headers: Headers) -> TransferHead:
        """Read what :meth:`headers` wrote; raises Refused 400."""
        try:
            return cls(
                headers[HEADER_FROM],
                int(headers[HEADER_COUNT]),
                float.fromhex(headers[HEADER_WEIGHT]),
                int(headers[HEADER_LAYOUT]),
            )
        except (KeyError, ValueError) as e:
            raise Refused(400, "bad-transfer", f"the transfer's headers are not usable: {e}") from e


class Transfers:
    """Both ends of every transfer of this node."""

    def __init__(
        self,
        coordinator: HttpClient,
        attachments: Attachments,
        node: str,
        *,
        view: Callable[[str], JobView],
        gateway: Callable[[str], HttpClient],
    ) -> None:
        self._coordinator = coordinator
        self._attachments = attachments
        self._node = node
        self._view = view
        self._gateway = gateway

    # -- sending --------------------------------------------------------------

    def arrived(self, attachment: Attachment, descriptor: Descriptor) -> None:
        """A descriptor reached this gateway: it names a partial that is to leave the node."""
        if descriptor.opcode is not Opcode.OBJECT:
            return
        ref = SlotRef(descriptor.slot, descriptor.generation)
        try:
            entry = attachment.pool.take(ref, attachment.endpoint)
        except (AlreadyTaken, StaleObject):
            return  # a second descriptor
        gevent.spawn(self._ship, attachment, ref, entry)

    def _ship(self, attachment: Attachment, ref: SlotRef, entry: SlotEntry) -> None:
        """Send a partial until it has arrived or is wanted no more, then free it."""
        with attachment.use() as pool:
            for pause in backoff():
                try:
                    if self._try(attachment, pool, ref, entry):
                        break
                except Unavailable as e:
                    log.warning("job %s: partial %d waits: %s", attachment.job, entry.serial, e)
                except HttpError as e:
                    log.warning("job %s: partial %d refused: %s", attachment.job, entry.serial, e)
                    break
                gevent.sleep(pause)
            with contextlib.suppress(Fenced):
                pool.release(ref, attachment.endpoint)

    def _try(self, attachment: Attachment, pool: Pool, ref: SlotRef, entry: SlotEntry) -> bool:
        """Send once if the plan says where to; return whether this gateway is done with it."""
        job = attachment.job
        try:
            view = self._view(job)
        except KeyError:
            return True
        if view.assignment != entry.assignment or view.over or view.plan is None:
            return view.assignment > entry.assignment or view.over
        target = view.plan.top.node
        if target == self._node:  # planned anew: the parent is here now
            pool.untake(ref, attachment.endpoint)
            return True
        url = view.upload.get(target)
        return url is not None and self._send(job, pool, ref, entry, target=target, url=url)

    def _send(
        self, job: str, pool: Pool, ref: SlotRef, entry: SlotEntry, *, target: str, url: str
    ) -> bool:
        cover = pool.cover(ref.slot)
        claim = {
            "job": job,
            "assignment": entry.assignment,
            "serial": entry.serial,
            "from": self._node,
            "to": target,
            "cover": [int(s) for s in cover],
            "weight": entry.weight,
        }
        answer = self._coordinator.json("POST", "/internal/v1/transfers", claim)
        if (answer or {}).get("duplicate"):
            return True
        head = TransferHead(self._node, len(cover), entry.weight, entry.layout)
        document = pool.slot_bytes(ref.slot)[entry.doc_start : entry.doc_start + entry.doc_bytes]
        body = [cover.data.cast("B"), *_pieces(document)]
        path = f"/internal/v1/transfers/{quote(job)}/{entry.assignment}/{entry.serial}"
        headers = head.headers(cover.nbytes + entry.doc_bytes)
        raise_for_status(self._gateway(url).request("PUT", path, body=body, headers=headers))
        return True

    # -- receiving ------------------------------------------------------------

    def take(
        self, view: JobView, assignment: int, serial: int, head: TransferHead, body: RequestBody
    ) -> None:
        """Take a partial from another node; returns when it is sealed here, now or before.

        Raises
        ------
        Refused
            if it is not one of this job's partials.
        HttpError
            if the coordinator does not want it (any more).
        """
        if view.schema is None:
            raise Unavailable(f"job {view.job} has no model yet", retry_after=1.0)
        schema = view.schema.schema
        cover_bytes = head.count * SERIAL_BYTES
        nbytes = schema.document_bytes
        if head.count < 1 or body.length != cover_bytes + nbytes:
            detail = f"a partial of {head.count} updates has {cover_bytes + nbytes} bytes"
            raise Refused(400, "bad-transfer", detail)
        attachment = self._attachments.get(view.job)
        with attachment.use() as pool:
            owner = attachment.endpoint
            start = pool.geometry.meta_bytes - schema.float_start
            if cover_bytes > start:
                raise Refused(413, "too-large", f"a cover of {head.count} updates does not fit")
            ref = pool.reserve(SlotKind.PARTIAL, owner, assignment)
            try:
                with body:
                    cover = np.empty(head.count, "<u8")
                    body.fill(cover.data.cast("B"))
                    for piece in _pieces(pool.slot_bytes(ref.slot)[start : start + nbytes]):
                        body.fill(piece)
                        body.breathe()
                seal = Seal(serial, head.weight, start, nbytes, head.layout, cover=cover)
                self._settle(attachment, ref, assignment, seal)
            except BaseException:
                with contextlib.suppress(Fenced):
                    pool.drop(ref, owner)
                raise

    def _settle(self, attachment: Attachment, ref: SlotRef, assignment: int, seal: Seal) -> None:
        """Have the arrival counted, then seal, as an upload is; the agent finds the next hop."""
        arrived = {
            "job": attachment.job,
            "assignment": assignment,
            "node": self._node,
            "slot": ref.slot,
            "generation": ref.generation,
        }
        path = f"/internal/v1/transfers/{seal.serial}/sealed"
        with attachment.gate.shared():
            try:
                patiently(lambda: self._coordinator.json("POST", path, arrived))
            except HttpError as e:
                if e.code != "transfer-sealed":
                    raise
                attachment.pool.drop(ref, attachment.endpoint)  # it had arrived before
                return
            attachment.pool.seal(ref, attachment.endpoint, seal)
        attachment.registration.dispatch(ref)


def _pieces(view: memoryview) -> Iterator[memoryview]:
    return (view[i : i + PIECE] for i in range(0, len(view), PIECE))
