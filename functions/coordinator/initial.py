"""A submitter's initial model becomes version 0.

Why: it may be in half precision or in another order; from here on models are
canonical float32 documents, so that every later step can treat one as bytes. It
is never held in memory as a whole. It must not know jobs or HTTP.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from functions.coordinator.checkpoint import Checkpoints
from lifl.errors import UpdateError
from lifl.update import FiniteCheck, Layout, Schema, check, flatten, header_bytes, parse_header

CHUNK = 1 << 20
Read = Callable[[int], bytes]


class InitialModel(NamedTuple):
    """What a job's version 0 is; ``file`` is durable."""

    schema: Schema
    file: str


def receive(checkpoints: Checkpoints, length: int, read: Read) -> InitialModel:
    """Read a safetensors document of ``length`` bytes and keep it as version 0.

    ``read(n)`` returns at most ``n`` further bytes, none when the body is over.

    Raises
    ------
    UpdateError
        422 if the document is malformed, cut off, or has values that are not finite.
    ConfigError
        if it holds nothing that could be aggregated.
    """
    incoming = checkpoints.path(checkpoints.draft(0).name("incoming.part"))
    try:
        with open(incoming, "w+b", buffering=0, opener=_private) as f:
            layout, schema = _store(f.fileno(), length, read)
            with mmap.mmap(f.fileno(), length, prot=mmap.PROT_READ) as source:
                return InitialModel(schema, _canonical(checkpoints, source, layout, schema))
    finally:
        incoming.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _store(fd: int, length: int, read: Read) -> tuple[Layout, Schema]:
    """Write the body to ``fd``; check header and values on the way."""
    prefix = _exactly(read, min(8, length))
    raw = prefix + _exactly(read, header_bytes(prefix, length) - len(prefix))
    header = parse_header(raw, length)
    schema = Schema.from_header(header)
    layout = check(header, schema)
    finite = FiniteCheck(layout)
    os.write(fd, raw)
    left = length - len(raw)
    while left:
        piece = read(min(CHUNK, left))
        if not piece:
            raise UpdateError(422, "truncated", f"the body ended {left} bytes early")
        finite.feed(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(fd, rest) :]
        left -= len(piece)
    return layout, schema


def _exactly(read: Read, count: int) -> bytes:
    parts, left = [], count
    while left:
        piece = read(left)
        if not piece:
            raise UpdateError(422, "truncated", f"the body ended {left} bytes early")
        parts.append(piece)
        left -= len(piece)
    return b"".join(parts)


def _canonical(checkpoints: Checkpoints, source: mmap.mmap, layout: Layout, schema: Schema) -> str:
    draft = checkpoints.draft(0)
    try:
        name, whole = draft.map_model(schema.document_bytes)
        target = memoryview(whole)
        target[: schema.int_start] = schema.canonical_header()
        floats = np.frombuffer(target, np.float32, schema.float_elements, schema.float_start)
        with memoryview(source) as document:
            flatten(document, layout, floats, target[schema.int_start : schema.float_start])
        del floats, target
        draft.keep()
    finally:
        draft.discard()
    return name
