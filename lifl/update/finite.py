"""NaN and infinity found piece by piece, while the bytes are still in cache.

Why: one bad element of one client would spoil the whole model, and a second
pass over a large update costs as much as receiving it. The sum of squares of
a float32 piece is finite if all its elements are (unless it overflows, then
the exact test decides), and BLAS computes it at memory speed. It must not
keep a piece, and must not look at integer tensors.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from lifl.errors import UpdateError
from lifl.update.dtypes import DTYPES
from lifl.update.header import Buffer
from lifl.update.layout import Layout, Piece

HALF_BLOCK = 1 << 16
EXPONENT = {"F16": np.uint16(0x7C00), "BF16": np.uint16(0x7F80)}


class _Region(NamedTuple):
    start: int
    end: int
    dtype: str
    itemsize: int
    numpy: np.dtype[Any]


class FiniteCheck:
    """Checks a document's data in the order they arrive.

    Feed it every byte behind the header once, in order, in pieces of any
    size; an element split between two pieces is put together. Its cost per
    piece is one BLAS dot product (run it with one BLAS thread).
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._regions = _regions(layout.floats)
        self._next = 0
        self._at = layout.header.data_start
        self._carry = b""

    def feed(self, piece: Buffer) -> None:
        """Check the next bytes.

        Raises
        ------
        UpdateError
            422 ``not-finite``; ``where`` is ``name[element]``, the element
            counted in the flattened tensor.
        """
        view = memoryview(piece)
        begin, end = self._at, self._at + len(view)
        self._at = end
        if self._passes(view, begin, end):
            return
        while self._next < len(self._regions):
            region = self._regions[self._next]
            if region.start >= end:
                return
            low, high = max(region.start, begin), min(region.end, end)
            self._feed_region(region, view[low - begin : high - begin], low)
            if region.end > end:
                return
            self._next += 1

    def _passes(self, view: memoryview, begin: int, end: int) -> bool:
        """Check a piece of whole float32 in the middle of a region, as most are, with few calls."""
        if self._carry or len(view) & 3 or self._next == len(self._regions):
            return False
        region = self._regions[self._next]
        if region.dtype != "F32" or region.start > begin or end >= region.end:
            return False
        x = np.frombuffer(view, np.float32)
        return isfinite(np.vdot(x, x))

    def _feed_region(self, region: _Region, view: memoryview, at: int) -> None:
        size = region.itemsize
        if self._carry:
            need = size - len(self._carry)
            self._carry += bytes(view[:need])
            if len(self._carry) < size:
                return
            self._check(region, np.frombuffer(self._carry, region.numpy), at + need - size)
            self._carry = b""
            view, at = view[need:], at + need
        whole = len(view) // size * size
        if whole:
            self._check(region, np.frombuffer(view[:whole], region.numpy), at)
        self._carry = bytes(view[whole:])

    def _check(self, region: _Region, x: np.ndarray[Any, Any], at: int) -> None:
        if region.dtype == "F32":
            if not isfinite(np.vdot(x, x)):  # vdot: BLAS' dot, and silent about overflow
                self._refuse(np.isfinite(x), x.itemsize, at)
            return
        mask, bits = EXPONENT[region.dtype], x.view(np.uint16)
        for i in range(0, len(bits), HALF_BLOCK):
            good = (bits[i : i + HALF_BLOCK] & mask) != mask
            self._refuse(good, x.itemsize, at + i * x.itemsize)

    def _refuse(self, good: np.ndarray[Any, Any], itemsize: int, at: int) -> None:
        first = int(np.argmin(good))
        if good[first]:
            return
        byte = at + first * itemsize
        piece = next(p for p in self._layout.floats if p.start <= byte < p.end)
        element = (byte - piece.start) // itemsize
        raise UpdateError(
            422,
            "not-finite",
            f"element {element} of the tensor {piece.name!r} is NaN or infinite",
            where=f"{piece.name}[{element}]",
        )


def _regions(floats: tuple[Piece, ...]) -> list[_Region]:
    """Join neighbours of one dtype: a region is checked without looking at tensor bounds."""
    regions: list[_Region] = []
    start, end, dtype = 0, 0, ""
    for p in floats:
        if p.start == p.end:
            continue
        if p.start != end or p.dtype != dtype:
            regions += _region(start, end, dtype)
            start, dtype = p.start, p.dtype
        end = p.end
    return regions + _region(start, end, dtype)


def _region(start: int, end: int, dtype: str) -> list[_Region]:
    if start == end:
        return []
    known = DTYPES[dtype]
    return [_Region(start, end, dtype, known.itemsize, known.numpy)]
