"""What clients and always-on aggregators say to each other over gRPC.

Why: one place for names, the message size and channel options that both ends must share.
Payload crosses as raw bytes with no serializer at all, one message a mebibyte; the few words of
control are JSON.
"""

from __future__ import annotations

import struct

PIECE = 1 << 20
"""Bytes of a message: 1 MB, as servers stream updates (262,144 float32)."""
ADD = "/lifl.bench.Serverful/Add"
"""Client streaming: an update's header and floats, or a partial's floats; answers :data:`DONE`."""
OPEN = "/lifl.bench.Serverful/Open"
"""Unary, JSON: ``round``, ``goal`` (inputs to wait for), ``parent`` (address, empty for a top)."""
MODEL = "/lifl.bench.Serverful/Model"
"""Unary, JSON: ``version``, ``ranges`` of bytes; answers when there is such a version."""
ROUND, SAMPLES = "lifl-round", "lifl-num-samples"
"""Metadata of :data:`ADD`: the round, and the Σ of samples behind what is sent."""
KIND = "lifl-kind"
"""Metadata of :data:`ADD`: ``update`` (floats are yet to be weighted) or ``partial``."""
DONE = struct.Struct("<d")
"""CLOCK_MONOTONIC seconds when the last float was in the sum."""
HEAD = struct.Struct("<d")
"""What precedes the ranges in a :data:`MODEL` answer: the Σ of samples behind the model."""
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.lookahead_bytes", 64 * PIECE),
    ("grpc.http2.max_frame_size", PIECE + 64),
)
"""No limit; frames in which a message fits: about a tenth less CPU than by default.

And windows in which an update fits, as into the buffers of LIFL's gateway: 3 % less time than
with four messages (two runs of 15 and 21 rounds in turn).
"""
_COUNT = struct.Struct("<Q")


def split(document: bytes | memoryview) -> tuple[bytes, memoryview]:
    """Return a safetensors document's header with its length in front, and its floats' bytes."""
    (length,) = _COUNT.unpack_from(document)
    view = memoryview(document)
    return bytes(view[: 8 + length]), view[8 + length :]


def describe(header: bytes, nbytes: int) -> bytes:
    """Return what an aggregator must know of the updates: header, and bytes of floats."""
    return _COUNT.pack(nbytes // 4) + header


def described(given: bytes) -> tuple[bytes, int]:
    """Return header and number of float32 of what :func:`describe` returned."""
    return given[_COUNT.size :], _COUNT.unpack_from(given)[0]


def pieces(floats: memoryview) -> list[bytes]:
    """Return the messages in which ``floats`` travel."""
    return [bytes(floats[at : at + PIECE]) for at in range(0, len(floats), PIECE)]
