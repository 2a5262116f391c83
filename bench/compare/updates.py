"""Updates for peers: every client's differs, no part of one is the same as another part.

Why: a peer that stores objects by their hash sends and keeps equal ones once, so equal or
repetitive updates would flatter it beyond measure. A client's update is the document times a ramp
over all elements times a factor of its own. This runs in peers' virtual environments too: numpy and
the standard library alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def floats(document: bytes) -> F32:
    """Return all float32 of a safetensors document of float32 tensors, in order, no copy."""
    return np.frombuffer(document, np.float32, offset=_start(document))


def ramped(document: bytes) -> F32:
    """Return the document's float32 times ``1 + i / elements``: client 0's update."""
    values = floats(document)
    ramp = np.arange(len(values), dtype=np.float64)
    ramp /= len(values)
    ramp += 1.0
    return np.multiply(values, ramp, dtype=np.float32, casting="same_kind")


def factor(client: int) -> float:
    """Return what client ``client``'s update is of client 0's."""
    return 1.0 + client / 8.0


def tensors(document: bytes, values: F32) -> dict[str, F32]:
    """Return ``values`` cut and shaped as the document's header says, by name, no copy."""
    start = _start(document)
    header = json.loads(document[8:start])
    header.pop("__metadata__", None)
    rows = sorted(header.items(), key=lambda row: row[1]["data_offsets"][0])
    found = {}
    for name, about in rows:
        if about["dtype"] != "F32":
            raise ValueError(f"{name} is {about['dtype']}; peers are compared on float32 alone")
        begin, end = (offset // 4 for offset in about["data_offsets"])
        found[name] = values[begin:end].reshape(about["shape"])
    return found


def mean_at(document: bytes, places: Sequence[int], weights: Sequence[tuple[float, float]]) -> F32:
    """Return elements of the mean of updates: ``weights`` are (samples, factor), one a client."""
    values = floats(document)
    at = np.asarray(places)
    whole = sum(n * f for n, f in weights) / sum(n for n, _ in weights)
    return (values[at].astype(np.float64) * (1.0 + at / len(values)) * whole).astype(np.float32)


def _start(document: bytes) -> int:
    (length,) = struct.unpack_from("<Q", document)
    return 8 + int(length)
