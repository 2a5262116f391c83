"""A function that adds a partial sum which comes by value: what a hop is measured with.

    gunicorn -c python:functions.aggregator.gunicorn_conf bench.compare.vanilla.adder:app

Why: the project's aggregator judges every value of a payload and takes new memory for it, which
other aggregators may not; this one reads into memory that it keeps and adds, no more, so that
the path is measured at its best. Same server, and the kernel with which the project's aggregators
add what somebody waits for.

It answers 202 with ``lifl-viewed`` and ``lifl-added`` (CLOCK_MONOTONIC seconds), and as
``lifl-elements`` some float32 of its sum (:func:`bench.compare.mean.places`), in hex.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bench.compare import mean
from functions.aggregator.blas import F32, best_kernel
from functions.aggregator.team import Team, processors

PIECE = 1 << 20
"""Bytes read at once: gunicorn reads no more, and copies more often if asked for less."""
Start = Callable[[str, list[tuple[str, str]]], Any]


class Adder:
    """The WSGI application; safe for several threads, whose payloads have one length."""

    extensions: dict[str, Any] = dict.fromkeys(("lifl", "lifl-drain", "lifl-traffic"))
    """What the project's worker class looks for: nothing to drain, nothing to count."""

    def __init__(self) -> None:
        self._kernel = Team(best_kernel(), processors())
        self._lock = threading.Lock()
        self._spare: list[F32] = []
        self._sum: F32 = np.empty(0, np.float32)

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Answer a request."""
        status, headers = "200 OK", dict[str, str]()
        if environ["REQUEST_METHOD"] == "POST":
            length = int(environ.get("CONTENT_LENGTH") or 0)
            if length % 4 or not length:
                status = "422 Unprocessable Content"
            else:
                status, headers = "202 Accepted", self._add(length, environ["wsgi.input"])
        start(status, [*headers.items(), ("Content-Length", "0")])
        return []

    def _add(self, length: int, source: Any) -> dict[str, str]:
        floats = self._memory(length // 4)
        target = floats.data.cast("B")
        at = 0
        while at < length:
            piece = source.read(min(PIECE, length - at))
            if not piece:
                raise EOFError(f"{length - at} bytes of the payload did not come")
            target[at : at + len(piece)] = piece
            at += len(piece)
        viewed = time.monotonic()
        with self._lock:
            self._kernel.axpby(1.0, floats, 1.0, self._sum)
            added = time.monotonic()
            self._spare.append(floats)
            some = self._sum[mean.places(len(self._sum))].tobytes().hex()
        return {
            "lifl-viewed": repr(viewed),
            "lifl-added": repr(added),
            "lifl-elements": some,
        }

    def _memory(self, elements: int) -> F32:
        with self._lock:
            if len(self._sum) != elements:
                self._spare.clear()
                self._sum = np.ones(elements, np.float32)  # ones: the pages must be there
                self._sum *= 0.0
            return self._spare.pop() if self._spare else np.ones(elements, np.float32)


app = Adder()
