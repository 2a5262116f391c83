"""A stranger's safetensors header, read strictly.

Why: the header says where bytes lie, so every number in it is hostile until
it has been checked against the body's true length. It must not look at tensor
data and must not know any job's schema.

The format (https://huggingface.co/docs/safetensors): 8 bytes little-endian
header length, that many bytes of JSON, then the data; ``data_offsets`` count
from the data's start, and the tensors must cover the data with no gap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, NoReturn

from lifl.errors import UpdateError
from lifl.update.dtypes import DTYPES

Buffer = bytes | bytearray | memoryview

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 1 << 16
MAX_DIMS = 64
MAX_DIM = 1 << 48
METADATA = "__metadata__"


class Tensor(NamedTuple):
    """One tensor of a document; ``start`` and ``end`` are bytes from the document's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A document's header: ``tensors`` in the order of their data."""

    data_start: int
    """Bytes of the length prefix and the JSON: where the data begin."""
    body_bytes: int
    """The whole document's length in bytes."""
    tensors: tuple[Tensor, ...]


def header_bytes(prefix: Buffer, body_len: int, *, limit: int = MAX_HEADER_BYTES) -> int:
    """Return how many bytes to read before :func:`parse_header` can work.

    ``prefix`` is the document's first 8 bytes, ``body_len`` its length; the
    answer includes the prefix.

    Raises
    ------
    UpdateError
        422 if the document ends before its header does, 413 if the header is
        longer than ``limit`` bytes.
    """
    if body_len < PREFIX_BYTES or len(prefix) < PREFIX_BYTES:
        raise UpdateError(
            422, "truncated", f"{body_len} bytes are too few for a safetensors document"
        )
    length = int.from_bytes(prefix[:PREFIX_BYTES], "little")
    if PREFIX_BYTES + length > body_len:
        raise UpdateError(
            422,
            "header-length",
            f"the header claims {length} bytes but only {body_len - PREFIX_BYTES} follow; "
            "is the body a safetensors document?",
            where="bytes 0-7",
        )
    if length > limit:
        raise UpdateError(
            413,
            "header-too-large",
            f"the header is {length} bytes; at most {limit} are taken",
            where="bytes 0-7",
        )
    return PREFIX_BYTES + length


def parse_header(raw: Buffer, body_len: int, *, limit: int = MAX_HEADER_BYTES) -> Header:
    """Read a document's header.

    ``raw`` is the document's start: at least the prefix and the JSON header.

    Raises
    ------
    UpdateError
        422 or 413, with ``where`` naming the tensor or the bytes.
    """
    data_start = header_bytes(raw, body_len, limit=limit)
    if len(raw) < data_start:
        raise UpdateError(422, "truncated", "the document ends inside its header")
    entries = _load(bytes(raw[PREFIX_BYTES:data_start]))
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict):
        _malformed(f"{METADATA} must be an object", METADATA)
    if len(entries) > MAX_TENSORS:
        raise UpdateError(
            413, "too-many-tensors", f"{len(entries)} tensors; at most {MAX_TENSORS} are taken"
        )
    size = body_len - data_start
    tensors = sorted(
        (_tensor(name, entry, data_start, size) for name, entry in entries.items()),
        key=lambda t: (t.start, t.end),
    )
    _check_cover(tensors, data_start, body_len)
    return Header(data_start, body_len, tuple(tensors))


def _malformed(detail: str, where: str = "header") -> NoReturn:
    raise UpdateError(422, "malformed-header", detail, where=where)


def _load(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        _malformed("the header does not start with '{'; is the body a safetensors document?")
    try:
        entries = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        _malformed(f"the header is not the JSON of a safetensors document: {e}")
    if not isinstance(entries, dict):
        _malformed("the header is not a JSON object")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise UpdateError(
            422, "duplicate-name", f"{twice[:200]!r} stands twice in the header", where=twice[:200]
        )
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _is_count(value: object, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit


def _tensor(name: str, entry: object, data_start: int, size: int) -> Tensor:
    where = name[:200]
    try:
        name.encode()
    except UnicodeEncodeError:
        _malformed("a tensor's name is not valid Unicode", ascii(where))
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _malformed("a tensor needs dtype, shape and data_offsets, and nothing else", where)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UpdateError(
            422,
            "unknown-dtype",
            f"dtype {str(dtype)[:40]!r} is not one of {', '.join(DTYPES)}",
            where=where,
        )
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or not all(_is_count(n, MAX_DIM) for n in shape)
    ):
        _malformed(f"shape must be a list of at most {MAX_DIMS} whole numbers", where)
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_is_count(n, size) for n in offsets)
        or offsets[0] > offsets[1]
    ):
        raise UpdateError(
            422,
            "bad-offsets",
            f"data_offsets must be [begin, end] within the {size} bytes of data",
            where=where,
        )
    begin, end = offsets
    if prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise UpdateError(
            422,
            "bad-offsets",
            f"shape and dtype do not need the {end - begin} bytes that data_offsets give",
            where=where,
        )
    return Tensor(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _check_cover(tensors: Iterable[Tensor], data_start: int, body_len: int) -> None:
    at = data_start
    for t in tensors:
        if t.start != at:
            word = "overlaps the tensor before it" if t.start < at else "leaves a gap before it"
            raise UpdateError(422, "bad-offsets", f"the tensor {word}", where=t.name[:200])
        at = t.end
    if at != body_len:
        raise UpdateError(
            422,
            "bad-offsets",
            f"{body_len - at} bytes behind the last tensor belong to none",
            where="end of data",
        )
