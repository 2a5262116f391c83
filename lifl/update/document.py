"""Documents to arrays and back, without copying a tensor.

Why: the arrays a client trains on are what the socket should send, and a
sealed object is what an array should look at. A copy is made only where the
bytes in memory are not the bytes on the wire: an array that is not
C-contiguous or not little-endian, or float64, which is sent as float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lifl.errors import UpdateError
from lifl.update.dtypes import DTYPES, dtype_of
from lifl.update.header import Buffer, Header
from lifl.update.schema import Schema, TensorSpec, encode_header

Array = np.ndarray[Any, Any]


def views(document: Buffer, header: Header) -> dict[str, Array]:
    """Return each tensor as a view of ``document``, by name, in document order.

    The views are writable if the document is. A BF16 tensor is its raw uint16
    bits (numpy has no bfloat16; see :func:`lifl.update.widen`).
    """
    whole = memoryview(document)
    return {
        t.name: np.frombuffer(whole[t.start : t.end], DTYPES[t.dtype].numpy).reshape(t.shape)
        for t in header.tensors
    }


def integer_views(section: Buffer, schema: Schema) -> list[Array]:
    """Return the tensors of an integer section (``int_bytes`` long), flat, in schema order."""
    whole = memoryview(section)
    found, at = [], 0
    for s in schema.integers:
        found.append(np.frombuffer(whole[at : at + s.nbytes], DTYPES[s.dtype].numpy))
        at += s.nbytes
    return found


def iter_document(arrays: Mapping[str, Array], schema: Schema) -> list[Buffer]:
    """Return a document as a list of buffers to send one after the other.

    The header comes first, then one flat byte view per tensor, in the
    canonical order; float32 arrays give the schema's canonical document.

    Raises
    ------
    UpdateError
        422 if ``arrays`` are not like the schema, with the same codes as
        :func:`lifl.update.check`.
    """
    for name in arrays.keys() - schema.by_name.keys():
        raise UpdateError(
            422, "unknown-tensor", f"the job's model has no tensor {name!r}", where=name
        )
    ready = [(spec, _wire_array(arrays, spec)) for spec in schema.tensors]
    specs = [TensorSpec(spec.name, dtype, spec.shape) for spec, (dtype, _) in ready]
    if tuple(specs) == schema.tensors:
        head = schema.canonical_header()
    else:
        order = sorted(
            range(len(specs)),
            key=lambda i: (specs[i].is_float, DTYPES[specs[i].dtype].rank, i),
        )
        ready = [ready[i] for i in order]
        head = encode_header(specs[i] for i in order)
    body = (memoryview(a.reshape(-1).data).cast("B") for _, (_, a) in ready if a.size)
    return [head, *body]


def document_bytes(parts: Iterable[Buffer]) -> int:
    """Return the length of what :func:`iter_document` returned, bytes."""
    return sum(len(p) for p in parts)


def _wire_array(arrays: Mapping[str, Array], spec: TensorSpec) -> tuple[str, Array]:
    """Return the dtype an array is sent as and the array in wire form."""
    try:
        array = np.asarray(arrays[spec.name])
    except KeyError:
        raise UpdateError(
            422, "missing-tensor", f"the update lacks the tensor {spec.name!r}", where=spec.name
        ) from None
    if array.shape != spec.shape:
        raise UpdateError(
            422,
            "wrong-shape",
            f"{spec.name!r} has shape {list(array.shape)}; the job's model has {list(spec.shape)}",
            where=spec.name,
        )
    if spec.is_float and array.dtype.newbyteorder("=") == np.float64:
        array = array.astype("<f4")
    dtype = dtype_of(array)
    if dtype is None or (dtype.name != spec.dtype and not (spec.is_float and dtype.is_float)):
        allowed = "float32, float16 or bfloat16" if spec.is_float else spec.dtype
        raise UpdateError(
            422,
            "wrong-dtype",
            f"{spec.name!r} is {array.dtype}; the job takes {allowed}",
            where=spec.name,
        )
    raw = array.view(np.uint16) if dtype.name == "BF16" else array
    return dtype.name, np.ascontiguousarray(raw, dtype=dtype.numpy)
