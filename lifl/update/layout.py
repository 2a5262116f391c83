"""A document held against a job's schema: where each tensor of the model lies in it.

Why: an update may come in another order and in half precision; whoever sums
it needs to know, piece by piece, which floats go where. It must not read
tensor data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lifl.errors import UpdateError
from lifl.update.header import Header, Tensor
from lifl.update.schema import Schema, TensorSpec


class Piece(NamedTuple):
    """One tensor's data in a document and its place in the model.

    ``start`` and ``end`` are bytes from the document's start. ``target`` is
    the first element in the schema's float vector for a float tensor, the
    first byte of the integer section for another.
    """

    name: str
    dtype: str
    start: int
    end: int
    target: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an update's tensors lie; ``floats`` and ``integers`` in document order.

    ``canonical`` means: the integer section exactly as the schema has it, then
    one run of float32 in schema order to the document's end, so the floats can
    be used as one vector without looking at the header again.
    """

    header: Header
    canonical: bool
    floats: tuple[Piece, ...]
    integers: tuple[Piece, ...]

    @property
    def float_start(self) -> int:
        """Return where the first float lies, bytes from the document's start."""
        return self.floats[0].start


def check(header: Header, schema: Schema) -> Layout:
    """Hold a document's header against the schema.

    Float tensors may be F32, F16 or BF16 each; integer tensors must have the
    schema's dtype.

    Raises
    ------
    UpdateError
        422: ``missing-tensor``, ``unknown-tensor``, ``wrong-shape`` or
        ``wrong-dtype``; ``where`` is the tensor's name.
    """
    given = {t.name: t for t in header.tensors}
    for spec in schema.tensors:
        if spec.name not in given:
            raise UpdateError(
                422, "missing-tensor", f"the update lacks the tensor {spec.name!r}", where=spec.name
            )
    for t in header.tensors:
        if t.name not in schema.by_name:
            name = t.name[:200]
            raise UpdateError(
                422, "unknown-tensor", f"the job's model has no tensor {name!r}", where=name
            )
    for spec in (*schema.floats, *schema.integers):
        _check_tensor(given[spec.name], spec)
    floats: list[Piece] = []
    integers: list[Piece] = []
    for t in header.tensors:
        piece = Piece(t.name, t.dtype, t.start, t.end, schema.offsets[t.name])
        (floats if schema.by_name[t.name].is_float else integers).append(piece)
    return Layout(
        header, _is_canonical(header, schema, floats, integers), tuple(floats), tuple(integers)
    )


def _check_tensor(tensor: Tensor, spec: TensorSpec) -> None:
    if tensor.shape != spec.shape:
        raise UpdateError(
            422,
            "wrong-shape",
            f"{spec.name!r} has shape {list(tensor.shape)}; the job's model has {list(spec.shape)}",
            where=spec.name,
        )
    allowed = ("F32", "F16", "BF16") if spec.is_float else (spec.dtype,)
    if tensor.dtype not in allowed:
        raise UpdateError(
            422,
            "wrong-dtype",
            f"{spec.name!r} is {tensor.dtype}; the job takes {' or '.join(allowed)}",
            where=spec.name,
        )


def _is_canonical(
    header: Header, schema: Schema, floats: list[Piece], integers: list[Piece]
) -> bool:
    ints_at = header.data_start
    floats_at = ints_at + schema.int_bytes
    return all(p.dtype == "F32" and p.start == floats_at + 4 * p.target for p in floats) and all(
        p.start == ints_at + p.target for p in integers
    )
