"""A model as arrays by name and as the document that travels; means, and how far off one is.

Why: what a side makes of true updates is compared with what the training made of them, outside
of both. It must not know trainings or sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lifl.update import Schema, TensorSpec, iter_document, parse_header, views

Arrays = dict[str, npt.NDArray[np.float32]]


def same(found: bytes, expected: bytes) -> float:
    """Return the greatest difference between two models, relative to the greatest weight.

    Both are safetensors documents with the same tensors.
    """
    a, b = arrays_of(found), arrays_of(expected)
    if a.keys() != b.keys():
        raise RuntimeError(f"the model has other tensors: {sorted(a.keys() ^ b.keys())[:4]}")
    greatest = max(float(np.abs(v).max()) for v in b.values())
    return max(float(np.abs(a[k] - b[k]).max()) for k in b) / greatest


def arrays_of(document: bytes) -> Arrays:
    """Return a document's tensors by name."""
    found: Arrays = dict(views(document, parse_header(document, len(document))))
    return found


def document_of(arrays: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Return the safetensors document of float32 ``arrays``."""
    schema = Schema(TensorSpec(name, "F32", a.shape) for name, a in arrays.items())
    return b"".join(iter_document(arrays, schema))


def average(updates: Sequence[Arrays], samples: Sequence[int]) -> Arrays:
    """Return the mean, weighted by ``samples``, summed in float64."""
    total = sum(samples)
    return {
        name: (
            sum(u[name].astype(np.float64) * n for u, n in zip(updates, samples, strict=True))
            / total
        ).astype(np.float32)
        for name in updates[0]
    }
