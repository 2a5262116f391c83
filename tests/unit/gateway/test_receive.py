"""A document off a body into a slot: where it lies, and in what pieces it is read."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from functions.gateway.body import RequestBody
from functions.gateway.receive import PIECE, Hashes, Limits, receive
from functions.gateway.views import JobSchema
from lifl.store import PoolGeometry
from lifl.update import FiniteCheck, Schema, iter_document

PAGE = 4096


class Body:
    """A body of which ``first`` bytes came with the headers, and the rest as fast as it is read."""

    chunked = False

    def __init__(self, document: bytes, first: int) -> None:
        self.length = len(document)
        self.received = 0
        self.asked: list[int] = []
        self._rest = memoryview(document)
        self._first = first

    def fill(self, view: memoryview) -> int:
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self.received += count
        return count

    def some(self, view: memoryview) -> int:
        self.asked.append(len(view))
        left = self._first - self.received
        return self.fill(view[:left] if left > 0 else view)

    def breathe(self) -> None:
        pass

    def wait(self) -> None:
        raise AssertionError("all of it is there")


@pytest.fixture
def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"n": np.arange(3), "w": rng.standard_normal(5 * PIECE // 4 + 7).astype(np.float32)}


@pytest.mark.parametrize("first", [300, 1001, 4099, PIECE + 1])
def test_whatever_came_with_the_headers_floats_are_checked_whole(arrays, first, monkeypatch):
    """A float that is split between two pieces makes every later one be put together."""
    schema = Schema.of(arrays)
    document = b"".join(bytes(p) for p in iter_document(arrays, schema))
    known = JobSchema.of(schema.to_json())
    meta = -(-schema.float_start // PAGE) * PAGE
    geometry = PoolGeometry(1, -(-schema.float_bytes // PAGE) * PAGE, meta)
    pieces: list[tuple[int, int]] = []  # where each begins behind the header, and its length
    real = FiniteCheck.feed

    def feed(self: FiniteCheck, piece: memoryview) -> None:
        pieces.append((self._at - known.layout.header.data_start, len(piece)))
        real(self, piece)

    monkeypatch.setattr(FiniteCheck, "feed", feed)
    slot = memoryview(bytearray(geometry.slot_bytes))
    body = Body(document, first)
    limits = Limits(known, geometry)
    found = receive(cast(RequestBody, body), slot, limits, Hashes(None), lambda _: None)
    assert found.nbytes == len(document)
    assert bytes(slot[found.start : found.start + found.nbytes]) == document
    assert sum(n for _, n in pieces) == len(document) - known.layout.header.data_start
    begins = [found.start + known.layout.header.data_start + at for at, _ in pieces]
    assert [b % PIECE for b in begins[3:]] == [0] * len(begins[3:])
    assert len(pieces) <= 5 + 3
