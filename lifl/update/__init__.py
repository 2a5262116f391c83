"""A model update is one safetensors document; this package alone knows what that means.

Why: the store holds opaque bytes and the gateway moves them; names, dtypes,
shapes, byte offsets and finite values are judged here, in one place, with
errors a client can act on. It must not do network I/O, must not import the
safetensors library, and never copies a tensor unless its precision changes.

* :class:`Schema`: what a job's updates look like, and where each tensor lies
  in the canonical layout.
* :func:`parse_header`, :func:`check`: a stranger's header, judged.
* :class:`FiniteCheck`: NaN and infinity found while the bytes arrive.
* :func:`views`, :func:`iter_document`: documents to arrays and back, no copy.
* :func:`float_blocks`, :func:`merge_integers`: what an aggregator adds.
"""

from __future__ import annotations

from lifl.update.document import document_bytes, integer_views, iter_document, views
from lifl.update.dtypes import BFLOAT16, DTYPES, FLOATS, Dtype, dtype_of
from lifl.update.finite import FiniteCheck
from lifl.update.header import (
    MAX_HEADER_BYTES,
    Buffer,
    Header,
    Tensor,
    header_bytes,
    parse_header,
)
from lifl.update.layout import Layout, Piece, check
from lifl.update.schema import Schema, TensorSpec
from lifl.update.summing import flatten, float_blocks, integer_section, merge_integers, widen

__all__ = [
    "BFLOAT16",
    "DTYPES",
    "FLOATS",
    "MAX_HEADER_BYTES",
    "Buffer",
    "Dtype",
    "FiniteCheck",
    "Header",
    "Layout",
    "Piece",
    "Schema",
    "Tensor",
    "TensorSpec",
    "check",
    "document_bytes",
    "dtype_of",
    "flatten",
    "float_blocks",
    "header_bytes",
    "integer_section",
    "integer_views",
    "iter_document",
    "merge_integers",
    "parse_header",
    "views",
    "widen",
]
