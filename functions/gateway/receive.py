"""A document off the socket into a slot: one copy, checked and hashed as it comes.

Why: the kernel writes each piece into its final place, and the finite-value
check and the digest read it there right away, so that no pass over the whole is left
for the end. The header decides where the document goes: so that its floats start
at the slot's aligned float area, the header and the integers end right before.

It must not know claims, and must not seal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import xxhash

from functions.gateway.body import RequestBody
from functions.gateway.problems import Refused
from functions.gateway.views import JobSchema
from lifl.errors import UpdateError
from lifl.store import PoolGeometry
from lifl.update import MAX_HEADER_BYTES, FiniteCheck, Layout, check, header_bytes, parse_header

PIECE = 1 << 20  # smaller ones cost calls: 45 MB took 13.5 ms of processor time, by 256 KB 16
BREATH = 8 << 20  # two to three milliseconds
SCRATCH = 512 << 10
PREFIX = 8


class Document(NamedTuple):
    """Where a received document lies in its slot, bytes; ``layout`` 0 is canonical float32."""

    start: int
    nbytes: int
    layout: int


class Limits:
    """How large a document of a job may be, and where it goes in a slot; bytes."""

    def __init__(self, schema: JobSchema, geometry: PoolGeometry) -> None:
        self.schema = schema
        self._room = geometry.meta_bytes - schema.schema.int_bytes
        self._data = schema.schema.int_bytes + schema.schema.float_bytes
        self.header = min(MAX_HEADER_BYTES, self._room - PREFIX)

    @property
    def document(self) -> int:
        """Return the size of the largest document."""
        return PREFIX + self.header + self._data

    def start(self, header_size: int) -> int:
        """Return where in the slot a document with this header (prefix included) starts."""
        return self._room - header_size

    @property
    def end(self) -> int:
        """Return where in the slot every document ends at the latest."""
        return self._room + self._data

    def check_length(self, body: RequestBody) -> None:
        """Refuse a body by its announced length: 411 if there is none, 413 if it is too large."""
        if body.length is None and not body.chunked:
            raise Refused(411, "length-required", "send Content-Length, or the body chunked")
        if body.length is not None:
            self.check_size(body.length)

    def check_size(self, nbytes: int) -> None:
        """Raise Refused 413 if ``nbytes`` are more than any update of the job can have."""
        if nbytes > self.document:
            raise Refused(
                413,
                "too-large",
                f"an update of this job has at most {self.document} bytes",
                where="Content-Length",
            )


class Hashes:
    """The digests of a body, fed as it comes.

    xxh3-128 tells a duplicate from another update; sha-256 is computed only for
    a client that sent one, to compare with it.
    """

    def __init__(self, sha256: bytes | None) -> None:
        self._xxh = xxhash.xxh3_128()
        self._expected = sha256
        self._sha = hashlib.sha256() if sha256 is not None else None

    def feed(self, piece: memoryview | bytearray) -> None:
        """Take the next bytes."""
        self._xxh.update(piece)
        if self._sha is not None:
            self._sha.update(piece)

    def finish(self) -> str:
        """Return the xxh3-128, hex; raises Refused if the client's own digest differs."""
        if self._sha is not None and self._sha.digest() != self._expected:
            raise Refused(
                400,
                "digest-differs",
                "the body does not have the digest it was sent with; send it again",
                where="Content-Digest",
            )
        return str(self._xxh.hexdigest())


def receive(
    body: RequestBody,
    slot: memoryview,
    limits: Limits,
    hashes: Hashes,
    between: Callable[[int], None],
) -> Document:
    """Receive a document into ``slot``.

    ``between`` is called between pieces with the bytes still to come, and may raise
    to stop early.

    Raises
    ------
    UpdateError
        if it is not an update of the job.
    Refused, ClientGone
        as :meth:`RequestBody.fill` does.
    """
    prefix = memoryview(bytearray(PREFIX))
    filled = body.fill(prefix)
    length = limits.document if body.length is None else body.length
    size = header_bytes(prefix[:filled], length, limit=limits.header)
    head = bytearray(size)
    head[:PREFIX] = prefix
    if body.fill(memoryview(head)[PREFIX:]) < size - PREFIX:
        raise UpdateError(422, "truncated", "the document ends inside its header")
    start = limits.start(size)
    slot[start : start + size] = head
    hashes.feed(head)
    if body.length is None:
        return _unmeasured(body, slot, limits, hashes, head)
    layout = _layout(bytes(head), body.length, limits)
    finite = FiniteCheck(layout)
    at = breath = start + size
    end = start + body.length
    while at < end:
        # up to a whole piece of the slot: what came with the headers is of any length, and
        # floats that begin in one piece and end in the next cost twice as much to check
        piece = slot[at : min(at - at % PIECE + PIECE, end)]
        count = body.some(piece)
        if not count:
            body.wait()
            between(end - at)
            continue
        piece = piece[:count]
        finite.feed(piece)
        hashes.feed(piece)
        at += count
        if at - breath >= BREATH:
            breath = at
            between(end - at)
            body.breathe()
    return Document(start, body.length, 0 if layout.canonical else 1)


def _unmeasured(
    body: RequestBody, slot: memoryview, limits: Limits, hashes: Hashes, head: bytearray
) -> Document:
    """Receive a chunked body: how long it is, and so what it is, is known at its end."""
    start = limits.start(len(head))
    at = first = start + len(head)
    end = limits.end
    while at < end and (count := body.fill(slot[at : min(at + PIECE, end)])):
        hashes.feed(slot[at : at + count])
        at += count
        body.breathe()
    if body.fill(memoryview(bytearray(1))):
        limits.check_size(limits.document + 1)
    layout = _layout(bytes(head), at - start, limits)
    finite = FiniteCheck(layout)
    for i in range(first, at, PIECE):
        finite.feed(slot[i : min(i + PIECE, at)])
        body.breathe()
    return Document(start, at - start, 0 if layout.canonical else 1)


def _layout(head: bytes, nbytes: int, limits: Limits) -> Layout:
    known = limits.schema
    if nbytes == known.schema.document_bytes and head == known.header:
        return known.layout
    return check(parse_header(head, nbytes, limit=limits.header), known.schema)


def compare(body: RequestBody, limits: Limits, hashes: Hashes) -> str:
    """Read a body for nothing but its digest, and return that."""
    scratch = memoryview(bytearray(SCRATCH))
    while count := body.fill(scratch):
        hashes.feed(scratch[:count])
        limits.check_size(body.received)
        body.breathe()
    return hashes.finish()
