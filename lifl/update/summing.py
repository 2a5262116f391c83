"""What an aggregator reads out of an update: float32 blocks and integer maxima.

Why: updates in half precision or in another order are summed by the same code
as canonical ones, block by block, so that widening never needs a second model
in memory. Integers (BatchNorm's ``num_batches_tracked``) have no mean: the
rule is the elementwise maximum, which does not depend on order or tree and
merges across partials.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lifl.update.document import integer_views
from lifl.update.dtypes import DTYPES
from lifl.update.header import Buffer
from lifl.update.layout import Layout
from lifl.update.schema import Schema

BLOCK_ELEMENTS = 1 << 16
Floats = np.ndarray[Any, np.dtype[np.float32]]


def widen(raw: np.ndarray[Any, Any], dtype: str, out: Floats) -> None:
    """Write half-precision elements into ``out`` as float32, exactly.

    ``raw`` is float16 for ``"F16"``, the raw uint16 bits for ``"BF16"``
    (bfloat16 is the upper half of a float32); same length as ``out``.
    """
    if dtype == "BF16":
        bits = out.view(np.uint32)
        bits[:] = raw
        np.left_shift(bits, 16, out=bits)
    else:
        out[:] = raw


def float_blocks(
    document: Buffer, layout: Layout, *, block: int = BLOCK_ELEMENTS
) -> Iterator[tuple[int, Floats]]:
    """Yield ``(first element in the schema's float vector, float32 values)``.

    Float32 tensors are yielded whole, as views; others in widened blocks of
    at most ``block`` elements, each valid until the next is asked for.
    """
    whole = memoryview(document)
    scratch = np.empty(block, np.float32)
    for p in layout.floats:
        x = np.frombuffer(whole[p.start : p.end], DTYPES[p.dtype].numpy)
        if p.dtype == "F32":
            yield p.target, x
            continue
        for i in range(0, len(x), block):
            part = x[i : i + block]
            widen(part, p.dtype, scratch[: len(part)])
            yield p.target + i, scratch[: len(part)]


def flatten(document: Buffer, layout: Layout, floats: Floats, integers: Buffer) -> None:
    """Copy a whole document into canonical form.

    ``floats`` takes ``float_elements`` float32 values; ``integers`` (writable,
    ``int_bytes`` long) takes the integer section.
    """
    for at, x in float_blocks(document, layout):
        floats[at : at + len(x)] = x
    memoryview(integers)[:] = integer_section(document, layout)


def integer_section(document: Buffer, layout: Layout) -> bytes:
    """Return a copy of a document's integers as the canonical section (``int_bytes`` long)."""
    whole = memoryview(document)
    return b"".join(whole[p.start : p.end] for p in sorted(layout.integers, key=lambda p: p.target))


def merge_integers(into: Buffer, section: Buffer, schema: Schema) -> None:
    """Raise an integer section (writable, ``int_bytes`` long) to another one's values.

    Elementwise maximum; for booleans that is "or".
    """
    pairs = zip(integer_views(into, schema), integer_views(section, schema), strict=True)
    for kept, new in pairs:
        np.maximum(kept, new, out=kept)
