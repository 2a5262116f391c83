"""One update on its way: buffers in, an answer out.

Why: the arrays a client trained are what the socket sends, so the body is a
list of views, cut into pieces that each get the whole socket timeout (Python's
``sendall`` counts it over all it is given). It must not decide whether to try
again.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import xxhash

from lifl import naming
from lifl.client.http import HttpClient, raise_for_status
from lifl.errors import UpdateError
from lifl.update import Buffer, dtype_of, widen

Array = np.ndarray[Any, Any]

PIECE_BYTES = 1 << 20
SMALL_BYTES = 1 << 16
MAX_METRICS_BYTES = 4096


class Document:
    """An update's buffers, sent any number of times without joining them.

    They are views of the caller's arrays: :meth:`remember` and
    :meth:`unchanged` tell whether those still hold what was sent.
    """

    def __init__(self, parts: Iterable[Buffer]) -> None:
        self._parts = [memoryview(p) for p in parts]
        self.nbytes = sum(len(p) for p in self._parts)
        self._mark: bytes | None = None

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield pieces: large views cut, small neighbours joined to spare system calls."""
        small: list[memoryview] = []
        held = 0
        for part in self._parts:
            if len(part) < SMALL_BYTES:
                small.append(part)
                held += len(part)
                if held < SMALL_BYTES:
                    continue
                part = part[:0]  # noqa: PLW2901
            if small:
                yield b"".join(small)
                small, held = [], 0
            for i in range(0, len(part), PIECE_BYTES):
                yield part[i : i + PIECE_BYTES]
        if small:
            yield b"".join(small)

    def digest(self) -> str:
        """Return the value of a ``Content-Digest`` header (RFC 9530) with SHA-256."""
        sha = hashlib.sha256()
        for part in self._parts:
            sha.update(part)
        return f"sha-256=:{base64.b64encode(sha.digest()).decode()}:"

    def remember(self) -> None:
        """Note what the arrays hold now."""
        self._mark = self._checksum()

    def unchanged(self) -> bool:
        """Return whether the arrays hold what they held at :meth:`remember`."""
        return self._mark is not None and self._mark == self._checksum()

    def _checksum(self) -> bytes:
        state = xxhash.xxh3_128()
        for part in self._parts:
            state.update(part)
        return state.digest()


def headers(
    client: str,
    num_samples: int,
    *,
    base_version: int,
    update_type: str,
    metrics: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the headers that describe an update.

    Raises
    ------
    UpdateError
        422 if ``num_samples`` is not a whole number from 1 on, or ``metrics``
        are not JSON of at most 4096 bytes.
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise UpdateError(
            422,
            "bad-num-samples",
            f"num_samples is {num_samples!r}; give the number of training samples, 1 or more",
            where=naming.HEADER_NUM_SAMPLES,
        )
    found = {
        "Content-Type": naming.MEDIA_SAFETENSORS,
        naming.HEADER_CLIENT: client,
        naming.HEADER_NUM_SAMPLES: str(num_samples),
        naming.HEADER_BASE_VERSION: str(base_version),
        naming.HEADER_UPDATE_TYPE: update_type,
    }
    if metrics:
        found[naming.HEADER_METRICS] = _metrics(metrics)
    return found


def deltas(arrays: Mapping[str, Array], base: Mapping[str, Array]) -> dict[str, Array]:
    """Return float tensors less ``base``'s as float32; integer tensors stay what they are."""
    found: dict[str, Array] = {}
    for name, array in arrays.items():
        dtype = dtype_of(array)
        start = base.get(name)
        if start is None or start.dtype != np.float32 or start.shape != array.shape:
            found[name] = array
            continue
        if dtype is not None and dtype.name == "BF16":
            wide = np.empty(array.shape, np.float32)
            widen(np.ascontiguousarray(array).view(np.uint16), "BF16", wide)
        else:
            wide = array
        found[name] = np.subtract(wide, start, dtype=np.float32, casting="same_kind")
    return found


def _metrics(metrics: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(dict(metrics), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as e:
        raise UpdateError(
            422, "bad-metrics", f"metrics are not JSON: {e}", where=naming.HEADER_METRICS
        ) from e
    if len(text) > MAX_METRICS_BYTES:
        raise UpdateError(
            422,
            "bad-metrics",
            f"metrics are {len(text)} bytes of JSON; at most {MAX_METRICS_BYTES} are taken",
            where=naming.HEADER_METRICS,
        )
    return text


def post(
    http: HttpClient, path: str, document: Document, described: Mapping[str, str], timeout: float
) -> dict[str, Any]:
    """Send an update once and return the answer's JSON.

    Raises
    ------
    Unavailable
        if there was no answer or one that asks to try again.
    HttpError
        if the update was refused.
    """
    response = http.request(
        "POST",
        path,
        body=document,
        headers={**described, "Content-Length": str(document.nbytes)},
        timeout=timeout,
    )
    raise_for_status(response)
    answer = json.loads(response.data)
    return answer if isinstance(answer, dict) else {}
