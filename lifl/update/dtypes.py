"""The safetensors dtypes an update may hold, and the order they are written in.

Why: the canonical layout is exactly what the stock safetensors library writes
for float32 models, so that an ordinary client's file needs no parsing on the
hot path. That library sorts by dtype, widest alignment first, then by name
(its ``prepare``; held by ``tests/unit/test_update_schema.py``). float64 and
complex tensors are left out on purpose: sums are kept in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Dtype:
    """One safetensors dtype.

    ``rank`` is the place in the library's writing order (lower is earlier).
    ``numpy`` is little-endian; bfloat16, which numpy lacks, is its raw uint16.
    """

    name: str
    rank: int
    numpy: np.dtype[Any]
    is_float: bool

    @property
    def itemsize(self) -> int:
        """Return the bytes of one element."""
        return self.numpy.itemsize


_IN_WRITING_ORDER = (
    ("U64", "<u8", False),
    ("I64", "<i8", False),
    ("F32", "<f4", True),
    ("U32", "<u4", False),
    ("I32", "<i4", False),
    ("BF16", "<u2", True),
    ("F16", "<f2", True),
    ("U16", "<u2", False),
    ("I16", "<i2", False),
    ("I8", "|i1", False),
    ("U8", "|u1", False),
    ("BOOL", "|b1", False),
)

DTYPES: dict[str, Dtype] = {
    name: Dtype(name, rank, np.dtype(code), is_float)
    for rank, (name, code, is_float) in enumerate(_IN_WRITING_ORDER)
}
FLOATS = frozenset(d.name for d in DTYPES.values() if d.is_float)
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""Marks raw uint16 bits as bfloat16: ``bits.view(BFLOAT16)``."""

_BY_NUMPY = {d.numpy: d for d in DTYPES.values() if d.name != "BF16"}


def dtype_of(array: np.ndarray[Any, Any]) -> Dtype | None:
    """Return the dtype an array is written as, None if updates cannot hold it.

    bfloat16 is known as :data:`BFLOAT16` or by the name of ``ml_dtypes``' type.
    """
    if array.dtype == BFLOAT16 or array.dtype.name == "bfloat16":
        return DTYPES["BF16"]
    return _BY_NUMPY.get(array.dtype.newbyteorder("<"))
