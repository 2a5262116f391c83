"""Objects from node to node, each once.

Why: a partial whose parent is on another node is handed to this gateway like
any object; it takes it, streams it out of shared memory to that node's gateway,
and frees it when that one has sealed it. Updates that landed where the plan has
no aggregator go the same way. Sending again is safe: the coordinator knows each
transfer by its serial, and the lease on the object ends only with an answer of the
receiver, who alone knows that it has it.

On the wire: ``PUT /internal/v1/transfers/{job}/{assignment}/{serial}`` with the
platform's token and the headers of :class:`TransferHead`; the body is the cover,
little-endian u64 each (one for an update), then the document as it lies in its
slot. Pools of a job have one geometry on all nodes, so it lies in the same place
there. The receiver answers 200, whether it arrived now or before.

It must not add, and must not decide where an object goes: the plan does.
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
from lifl import crash
from lifl.client.http import HttpClient, HttpError, raise_for_status
from lifl.errors import AlreadyTaken, Fenced, StaleObject, Unavailable
from lifl.naming import HEADER_BASE_VERSION
from lifl.store import Pool, PoolGeometry, Seal, SlotEntry, SlotKind, SlotRef, SlotState
from lifl.wire import Descriptor, Opcode

log = logging.getLogger("lifl.gateway")

SERIAL_BYTES = 8
MEAN = 2  # the layout of a partial that is divided already: for the coordinator alone


@dataclass(frozen=True, slots=True)
class TransferHead:
    """What a transfer says of itself: an object's row of the slot table.

    ``LIFL-From`` is the node it comes from, ``LIFL-Kind`` update or partial,
    ``LIFL-Weight`` Σ n as a C99 hex float, ``LIFL-Start`` and
    ``LIFL-Document-Bytes`` the document's place in its slot.
    """

    source: str
    kind: SlotKind
    count: int
    weight: float
    layout: int
    start: int
    nbytes: int
    base_version: int

    @property
    def cover_bytes(self) -> int:
        """Return the size of the cover."""
        return self.count * SERIAL_BYTES

    def headers(self) -> dict[str, str]:
        """Return the header fields."""
        return {
            "LIFL-From": self.source,
            "LIFL-Kind": self.kind.name.lower(),
            "LIFL-Cover-Count": str(self.count),
            "LIFL-Weight": self.weight.hex(),
            "LIFL-Layout": str(self.layout),
            "LIFL-Start": str(self.start),
            "LIFL-Document-Bytes": str(self.nbytes),
            HEADER_BASE_VERSION: str(self.base_version),
            "Content-Length": str(self.cover_bytes + self.nbytes),
            "Content-Type": "application/octet-stream",
        }

    @classmethod
    def read(cls, headers: Headers) -> TransferHead:
        """Read what :meth:`headers` wrote; raises Refused 400."""
        try:
            return cls(
                headers["LIFL-From"],
                {"update": SlotKind.UPDATE, "partial": SlotKind.PARTIAL}[headers["LIFL-Kind"]],
                int(headers["LIFL-Cover-Count"]),
                float.fromhex(headers["LIFL-Weight"]),
                int(headers["LIFL-Layout"]),
                int(headers["LIFL-Start"]),
                int(headers["LIFL-Document-Bytes"]),
                int(headers[HEADER_BASE_VERSION]),
            )
        except (KeyError, ValueError) as e:
            raise Refused(400, "bad-transfer", f"the transfer's headers are not usable: {e}") from e

    def check(self, body: RequestBody, geometry: PoolGeometry) -> None:
        """Raise Refused 400 if the object does not fit a slot, or the body is not it."""
        room = self.cover_bytes if self.kind is SlotKind.PARTIAL else 0
        inside = room <= self.start and self.start + self.nbytes <= geometry.slot_bytes
        counted = self.count >= 1 if self.kind is SlotKind.PARTIAL else self.count == 1
        if not (counted and self.nbytes > 0 and inside):
            raise Refused(400, "bad-transfer", "the object does not fit a slot of this job")
        if body.length != self.cover_bytes + self.nbytes:
            raise Refused(400, "bad-transfer", "the body is not as long as its headers say")


class Transfers:
    """Both ends of every transfer of this node."""

    def __init__(
        self,
        coordinator: HttpClient,
        attachments: Attachments,
        node: str,
        boot: str,
        *,
        view: Callable[[str], JobView],
        gateway: Callable[[str], HttpClient],
    ) -> None:
        self._coordinator = coordinator
        self._attachments = attachments
        self._node = node
        self._boot = boot
        self._view = view
        self._gateway = gateway

    # -- sending --------------------------------------------------------------

    def arrived(self, attachment: Attachment, descriptor: Descriptor) -> None:
        """A descriptor reached this gateway: it names an object that is to leave the node."""
        if descriptor.opcode is Opcode.OBJECT:
            self._begin(attachment, SlotRef(descriptor.slot, descriptor.generation))

    def stray(self, view: JobView) -> None:
        """Send on what lies here though the plan has no aggregator on this node."""
        attachment = self._attachments.find(view.job)
        plan = view.plan
        if attachment is None or plan is None or not plan.roles or plan.on(self._node):
            return
        if plan.assignment != view.assignment or view.over:
            return
        for kind in (SlotKind.UPDATE, SlotKind.PARTIAL):
            for ref in attachment.pool.find(
                state=SlotState.SEALED, kind=kind, assignment=plan.assignment
            ):
                self._begin(attachment, ref)

    def _begin(self, attachment: Attachment, ref: SlotRef) -> None:
        try:
            entry = attachment.pool.take(ref, attachment.endpoint)
        except (AlreadyTaken, StaleObject):
            return  # a second descriptor
        gevent.spawn(self._ship, attachment, ref, entry)

    def _ship(self, attachment: Attachment, ref: SlotRef, entry: SlotEntry) -> None:
        """Send an object until it has arrived or is wanted no more, then free it."""
        with attachment.use() as pool:
            for pause in backoff():
                try:
                    if self._try(attachment, pool, ref, entry):
                        crash.point("shipped")
                        break
                except Unavailable as e:
                    log.warning("job %s: object %d waits: %s", attachment.job, entry.serial, e)
                except HttpError as e:
                    log.warning("job %s: object %d refused: %s", attachment.job, entry.serial, e)
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
        if entry.layout == MEAN and view.model is None:
            return False
        target = view.model.node if entry.layout == MEAN and view.model else view.plan.top.node
        if target == self._node:  # planned anew: it is to be added here now
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
        self._coordinator.json("POST", "/internal/v1/transfers", claim)
        head = TransferHead(
            self._node,
            entry.kind,
            len(cover),
            entry.weight,
            entry.layout,
            entry.doc_start,
            entry.doc_bytes,
            entry.base_version,
        )
        document = pool.slot_bytes(ref.slot)[entry.doc_start : entry.doc_start + entry.doc_bytes]
        body = [cover.data.cast("B"), *_pieces(document)]
        path = f"/internal/v1/transfers/{quote(job)}/{entry.assignment}/{entry.serial}"
        headers = head.headers()
        raise_for_status(self._gateway(url).request("PUT", path, body=body, headers=headers))
        return True

    # -- receiving ------------------------------------------------------------

    def take(
        self, view: JobView, assignment: int, serial: int, head: TransferHead, body: RequestBody
    ) -> None:
        """Take an object from another node; returns when it is sealed here, now or before.

        Raises
        ------
        Refused
            if it is not an object of this job.
        HttpError
            if the coordinator does not want it (any more).
        """
        attachment = self._attachments.get(view.job)
        with attachment.use() as pool:
            head.check(body, pool.geometry)
            owner = attachment.endpoint
            ref = pool.reserve(head.kind, owner, assignment)
            try:
                with body:
                    cover = np.empty(head.count, "<u8")
                    body.fill(cover.data.cast("B"))
                    document = pool.slot_bytes(ref.slot)[head.start : head.start + head.nbytes]
                    for piece in _pieces(document):
                        body.fill(piece)
                        body.breathe()
                seal = Seal(
                    serial,
                    head.weight,
                    head.start,
                    head.nbytes,
                    head.layout,
                    head.base_version,
                    cover=cover if head.kind is SlotKind.PARTIAL else (),
                )
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
            "boot": self._boot,
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
            crash.point("arrived")
            try:
                attachment.pool.seal(ref, attachment.endpoint, seal)
            except Fenced:
                self._attachments.recheck(attachment.job)
                raise Unavailable("this node lost the object; send it again") from None
        crash.point("transferred")
        attachment.registration.dispatch(ref)


def _pieces(view: memoryview) -> Iterator[memoryview]:
    return (view[i : i + PIECE] for i in range(0, len(view), PIECE))
