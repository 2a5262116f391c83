"""The vanilla way: payloads by value in HTTP requests, the partial sum in the reply.

Why: vanilla serverless aggregation can only be compared fairly if it sums with the
same code. There is no agent, no pool and no descriptor here; the accumulator and
the rule "keep Σ n·w and Σ n, divide once" are the same. It must not know flask.

A request holds one *item* or a batch of them. An item is a safetensors document
and says what it stands for:

* an **update** of n samples: ``LIFL-Num-Samples: n`` (CloudEvent: ``ce-liflsamples``);
* a **partial** from another aggregator, floats Σ n·w already: ``LIFL-Weight: Σn``
  (``ce-liflweight``).

A **batch** has ``Content-Type: application/vnd.lifl.batch`` and is a sequence of
frames: length (u64), weight (f64), kind (u64; 1 update, 2 partial), all
little-endian, then ``length`` bytes of document.

====================================  ==============================================
``POST /``                            sums the request's items, replies 200 with the sum
``POST /v1/partials/KEY[?goal=K]``    adds to the sum KEY, replies 202; the request with
                                      which K items are reached is replied with the sum
``POST /v1/partials/KEY/seal``        replies 200 with the sum; KEY is forgotten
``DELETE /v1/partials/KEY``           forgets KEY, replies 204
binary CloudEvent to ``POST /``       as ``POST /v1/partials/SUBJECT?goal=LIFLGOAL``; an event
                                      that comes again adds nothing, and if its reply was the
                                      sum, it gets that sum again, with the same id
====================================  ==============================================

With ``final=1`` (``ce-liflfinal: 1``) the reply is the mean. A reply is a canonical
document with ``LIFL-Weight`` (a mean: ``LIFL-Num-Samples``) and ``LIFL-Items``, and a
CloudEvent of type ``dev.lifl.partial`` or ``dev.lifl.mean`` if the request was one.

A broker delivers at least once: again, if a reply broke off on its way. So the last sum that
events finished is kept until the next one is.

A broker delivers a reply as it is, so an event may say what its sum is a part of:
``ce-liflparent: SUBJECT`` and ``ce-liflparts: K`` make the partial in the reply an event with that
subject, ``ce-liflgoal: K`` and ``ce-liflfinal: 1``.
"""

from __future__ import annotations

import math
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from functions.aggregator.blas import Kernel
from functions.aggregator.stats import Stats
from functions.aggregator.summing import Input, Reader, View, WeightedSum
from lifl.errors import TemporaryError, UpdateError
from lifl.store import SlotKind
from lifl.update import FiniteCheck, Schema

MEDIA_BATCH = "application/vnd.lifl.batch"
FRAME = struct.Struct("<QdQ")
IDLE_SECONDS = 600.0


class Item(NamedTuple):
    """One document and what it stands for."""

    document: memoryview
    weight: float
    kind: SlotKind


class Result(NamedTuple):
    """A finished sum or mean; ``event_id`` is its id as a CloudEvent, however often it is sent."""

    document: bytearray
    weight: float
    items: int
    mean: bool
    event_id: str


def pack_frame(document: bytes | memoryview, weight: float, kind: SlotKind) -> bytes:
    """Return the header of one frame of a batch; the document follows it."""
    return FRAME.pack(len(document), weight, kind)


def frames(body: memoryview) -> Iterator[Item]:
    """Yield the items of a batch.

    Raises
    ------
    UpdateError
        422 if the body is empty or is not a whole number of frames.
    """
    at = 0
    while at < len(body) or at == 0:
        if len(body) - at < FRAME.size:
            raise UpdateError(422, "truncated", "a frame's header is cut off", where=f"byte {at}")
        length, weight, kind = FRAME.unpack_from(body, at)
        at += FRAME.size
        if length > len(body) - at:
            raise UpdateError(
                422,
                "truncated",
                f"a frame claims {length} bytes but only {len(body) - at} follow",
                where=f"byte {at}",
            )
        if kind not in (SlotKind.UPDATE, SlotKind.PARTIAL):
            raise UpdateError(422, "unknown-kind", "a frame's kind is 1 or 2", where=f"byte {at}")
        yield Item(body[at : at + length], weight, SlotKind(kind))
        at += length


Event = tuple[str, str]
"""A CloudEvent's source and id."""


class _Finished(NamedTuple):
    """A sum that events made, and which of them had it for its reply."""

    key: str
    events: set[Event]
    last: Event
    result: Result


@dataclass(slots=True)
class _Open:
    """One sum between its first item and its reply."""

    schema: Schema
    document: bytearray
    sum: WeightedSum
    weight: float = 0.0
    count: int = 0
    events: set[Event] = field(default_factory=set)
    touched: float = 0.0


class Partials:
    """The open sums by key; safe for several threads.

    ``limit`` is how many may be open; when it is reached those that nobody has
    added to for ten minutes make room.
    """

    def __init__(self, kernel: Kernel, stats: Stats, limit: int) -> None:
        self._kernel = kernel
        self._stats = stats
        self._limit = limit
        self._reader = Reader()
        self._open: dict[str, _Open] = {}
        self._finished: _Finished | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def once(self, items: Iterator[Item], final: bool) -> Result:
        """Sum the items of one request; raises UpdateError if one is unusable."""
        with self._lock:
            return self._finish(self._sum(None, self._read(None, items)), final)

    def add(
        self,
        key: str,
        items: Iterator[Item],
        *,
        goal: int = 0,
        final: bool = False,
        event: Event | None = None,
    ) -> Result | int:
        """Add a request's items to the sum ``key``; returns its count, or the result at the goal.

        An ``event`` seen before adds nothing, neither to an open sum nor to the one that was
        finished last; the one that finished it gets its result again.

        Raises
        ------
        UpdateError
            if an item is unusable; then none of the request's items is added.
        TemporaryError
            if too many sums are open.
        """
        with self._lock:
            total = self._open.get(key)
            if event is not None and (known := self._known(key, total, event)) is not None:
                return known
            ready = self._read(total, items)
            if total is None:
                self._make_room()
            total = self._sum(total, ready)
            if event is not None:
                total.events.add(event)
            if 0 < goal <= total.count:
                self._open.pop(key, None)
                result = self._finish(total, final)
                if event is not None:
                    self._finished = _Finished(key, total.events, event, result)
                return result
            total.touched = time.monotonic()
            self._open[key] = total
            return total.count

    def seal(self, key: str, final: bool) -> Result:
        """Finish the sum ``key``; raises KeyError if there is none."""
        with self._lock:
            return self._finish(self._open.pop(key), final)

    def forget(self, key: str) -> None:
        """Drop the sum ``key``; raises KeyError if there is none."""
        with self._lock:
            del self._open[key]

    def _known(self, key: str, total: _Open | None, event: Event) -> Result | int | None:
        """Return the answer to an event that was here before; None if it was not."""
        if total is not None:
            return total.count if event in total.events else None
        done = self._finished
        if done is None or done.key != key or event not in done.events:
            return None
        return done.result if event == done.last else done.result.items

    def _make_room(self) -> None:
        if len(self._open) < self._limit:
            return
        now = time.monotonic()
        for key in [k for k, o in self._open.items() if now - o.touched > IDLE_SECONDS]:
            del self._open[key]
        if len(self._open) >= self._limit:
            raise TemporaryError(f"{self._limit} sums are open; seal or delete one", retry_after=5)

    def _read(self, total: _Open | None, items: Iterator[Item]) -> list[tuple[Item, View]]:
        """Judge all items before any is added."""
        ready: list[tuple[Item, View]] = []
        schema = total.schema if total is not None else None
        for item in items:
            if not (math.isfinite(item.weight) and item.weight > 0):
                raise UpdateError(422, "bad-weight", f"{item.weight} is no weight above 0")
            view = self._reader.view(item.document)
            schema = schema or view.schema
            if view.schema != schema:
                raise UpdateError(422, "wrong-schema", f"{view.schema} does not fit {schema}")
            FiniteCheck(view.layout).feed(item.document[view.layout.header.data_start :])
            ready.append((item, view))
        return ready

    def _sum(self, total: _Open | None, ready: list[tuple[Item, View]]) -> _Open:
        total = total or self._new(ready[0][1].schema)
        started = time.perf_counter()
        total.sum.add(
            [Input(v, None if i.kind is SlotKind.PARTIAL else i.weight) for i, v in ready]
        )
        for item, _ in ready:
            total.weight += item.weight
            total.count += 1
            self._stats.objects += 1
            self._stats.bytes += len(item.document)
        self._stats.seconds += time.perf_counter() - started
        return total

    def _new(self, schema: Schema) -> _Open:
        document = bytearray(schema.document_bytes)
        document[: schema.int_start] = schema.canonical_header()
        floats = np.frombuffer(document, np.float32, schema.float_elements, schema.float_start)
        integers = memoryview(document)[schema.int_start : schema.float_start]
        return _Open(schema, document, WeightedSum(schema, floats, integers, self._kernel))

    def _finish(self, total: _Open, final: bool) -> Result:
        total.sum.seal(total.weight if final else 1.0)
        self._stats.partials += 1
        return Result(total.document, total.weight, total.count, final, str(uuid.uuid4()))
