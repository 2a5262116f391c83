"""The accumulator: what an aggregator does with the numbers of an object.

Why: the float32 weighted sum is the first of several ways to combine updates
(shards of a model, an order-invariant mean, masked sums may follow), so the
state machine and the runtime know only :class:`Accumulator`. The sum is made in
place in its output's memory, with no zeroing pass, and a top's division by Σ n
is fused into its last addition, where the data is in cache anyway.

Formula (FedAvg, McMahan et al. 2017): ``mean = Σ nᵢ·wᵢ / Σ nᵢ``. Partials carry
``Σ nᵢ·wᵢ``, so that sums of sums are right in any tree and any order. Integer
buffers (BatchNorm's ``num_batches_tracked``) combine by element-wise maximum.

It must not know slots, leases or descriptors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from functions.aggregator.blas import F32, Kernel
from lifl.update import (
    Layout,
    Schema,
    check,
    float_blocks,
    header_bytes,
    integer_section,
    merge_integers,
    parse_header,
)

Buffer = bytes | bytearray | memoryview
REMEMBERED_HEADERS = 32


class Span(NamedTuple):
    """A range ``[lo, hi)`` of float elements; ``hi`` 0 means to the end."""

    lo: int = 0
    hi: int = 0

    def within(self, length: int) -> tuple[int, int]:
        """Return the range cut to ``length`` elements, its end made explicit."""
        hi = min(self.hi or length, length)
        return min(self.lo, hi), hi


WHOLE = Span()


@dataclass(frozen=True, slots=True)
class View:
    """A document where it lies in memory, with what its header says."""

    document: memoryview
    schema: Schema
    layout: Layout

    def blocks(self) -> Iterator[tuple[int, F32]]:
        """Yield ``(first element, float32 values)``; a canonical document is one block, no copy.

        A block in half precision is widened into scratch memory and is valid
        until the next is asked for.
        """
        if self.layout.canonical:
            start = self.layout.header.data_start + self.schema.int_bytes
            yield 0, np.frombuffer(self.document, np.float32, self.schema.float_elements, start)
        else:
            yield from float_blocks(self.document, self.layout)

    def integers(self) -> Buffer:
        """Return the integers as one section in the schema's order."""
        if self.layout.canonical:
            start = self.layout.header.data_start
            return self.document[start : start + self.schema.int_bytes]
        return integer_section(self.document, self.layout)


class Reader:
    """Makes views; remembers headers, since a job's updates have few different ones."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Schema, Layout]] = {}
        self._schemas: dict[Schema, Schema] = {}

    def view(self, document: memoryview) -> View:
        """Return a view of a whole safetensors document.

        Raises
        ------
        UpdateError
            if the header is malformed.
        ConfigError
            if the document is not one that can be summed.
        """
        size = len(document)
        head = bytes(document[: header_bytes(document[:8], size)])
        known = self._known.get(head)
        if known is None or known[1].header.body_bytes != size:
            header = parse_header(head, size)
            schema = Schema.from_header(header)
            schema = self._schemas.setdefault(schema, schema)
            known = schema, check(header, schema)
            if len(self._known) >= REMEMBERED_HEADERS:
                self._known.clear()
                self._schemas = {schema: schema}
            self._known[head] = known
        return View(document, *known)


class Input(NamedTuple):
    """A document to add: ``weight`` in samples of an update or a mean, None of a partial result."""

    view: View
    weight: float | None = None


class Accumulator(Protocol):
    """A way to combine documents of one schema. One instance makes one output."""

    def add(self, inputs: Sequence[Input], divide_by: float = 1.0, *, hurry: bool = False) -> None:
        """Add updates, means and partial results of the same kind of accumulator.

        Those that come together are added together: the output is gone through once.
        ``divide_by`` other than 1 also divides the whole result, in the same pass;
        ``hurry`` says that somebody waits, so all processors may be used.
        """

    def seal(self, divide_by: float = 1.0) -> None:
        """Finish the output, dividing it if asked to; nothing may be added afterwards."""


class WeightedSum:
    """``Σ n·w`` in float32, in place, over the elements of ``span``.

    ``floats`` (``schema.float_elements`` long) and ``integers`` (writable,
    ``schema.int_bytes`` long) are the output's memory. What they held before
    does not matter: the first document overwrites it. Elements outside the span
    are not touched. ``team`` is the kernel for what is in a hurry.
    """

    def __init__(
        self,
        schema: Schema,
        floats: F32,
        integers: memoryview,
        kernel: Kernel,
        span: Span = WHOLE,
        *,
        team: Kernel | None = None,
    ) -> None:
        self._schema = schema
        self._floats = floats
        self._integers = integers
        self._kernel = kernel
        self._team = team or kernel
        self._lo, self._hi = span.within(len(floats))
        self._empty = True
        self._sealed = False

    def add(self, inputs: Sequence[Input], divide_by: float = 1.0, *, hurry: bool = False) -> None:
        """Add ``Σ weight * view``; a partial result's floats are weighted already.

        Documents in canonical layout take one pass together, any other one of its own before.

        Raises
        ------
        ValueError
            if one has another schema or all is sealed; then nothing was added.
        """
        if self._sealed:
            raise ValueError("the sum is sealed")
        for view, _ in inputs:
            if view.schema != self._schema:
                raise ValueError(f"{view.schema} does not fit a sum of {self._schema}")
        kernel = self._team if hurry else self._kernel
        together = [i for i in inputs if i.view.layout.canonical]
        passes = [[i] for i in inputs if not i.view.layout.canonical]
        if together:
            passes.append(together)
        for number, several in enumerate(passes, 1):
            self._pass(several, divide_by if number == len(passes) else 1.0, kernel)

    def _pass(self, inputs: Sequence[Input], divide_by: float, kernel: Kernel) -> None:
        keep = 0.0 if self._empty else 1.0 / divide_by
        weights = [1.0 if weight is None else weight for _, weight in inputs]
        for blocks in zip(*(view.blocks() for view, _ in inputs), strict=True):
            first, some = blocks[0]
            lo, hi = max(self._lo, first), min(self._hi, first + len(some))
            if lo < hi:
                here = slice(lo - first, hi - first)
                terms = [
                    (weight / divide_by, values[here])
                    for weight, (_, values) in zip(weights, blocks, strict=True)
                ]
                kernel.add(terms, keep, self._floats[lo:hi])
        for view, _ in inputs:
            if self._empty:
                self._integers[:] = view.integers()
            else:
                merge_integers(self._integers, view.integers(), self._schema)
            self._empty = False

    def seal(self, divide_by: float = 1.0) -> None:
        """Divide in a pass of its own if asked to, and take nothing more."""
        if self._empty:
            raise ValueError("nothing was added")
        self._sealed = True
        if divide_by != 1.0:
            self._team.scale(1.0 / divide_by, self._floats[self._lo : self._hi])
