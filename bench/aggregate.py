"""One update added into the accumulator, against a memory copy of the same bytes.

Both run on one thread over the same shared-memory pool that a real aggregator
uses; the sum kernel is the one the aggregator picked.
"""

from __future__ import annotations

import ctypes
import statistics
import time

import numpy as np
import numpy.typing as npt

from bench.figures import Figure, at_least, interleave, ratios
from bench.sizes import BYTES
from functions.aggregator.blas import best_kernel
from lifl.store import Pool, PoolGeometry

N = 21


def run() -> list[Figure]:
    """Return ``aggregate_ratio`` at 45 MB, and the other sizes beside it."""
    return [_figure(f"aggregate_ratio{suffix}", size) for suffix, size in _sizes()]


def _sizes() -> list[tuple[str, int]]:
    return [("", BYTES["45mb"]), ("_85mb", BYTES["85mb"]), ("_233mb", BYTES["233mb"])]


def _figure(key: str, nbytes: int) -> Figure:
    geometry = PoolGeometry(3, -(-nbytes // 4096) * 4096, 4096)
    pool = Pool.create("bench", geometry, prefault_slots=3)
    try:
        return _compare(key, *(pool.floats(slot) for slot in range(3)))
    finally:
        pool.close()


def _compare(
    key: str,
    x: npt.NDArray[np.float32],
    acc: npt.NDArray[np.float32],
    copy: npt.NDArray[np.float32],
) -> Figure:
    kernel = best_kernel()
    x[:] = np.random.default_rng(0).standard_normal(x.size, np.float32)
    acc[:] = 0
    copy[:] = 0

    def add() -> float:
        start = time.perf_counter()
        kernel.axpby(0.5, x, 1.0, acc)
        return time.perf_counter() - start

    def memcpy() -> float:
        start = time.perf_counter()
        ctypes.memmove(copy.ctypes.data, x.ctypes.data, x.nbytes)
        return time.perf_counter() - start

    added, copied = interleave(add, memcpy, n=N)
    gbps = x.nbytes / 1e9 / statistics.median(added)
    notes = {"kernel": kernel.name, "gb_per_s": round(gbps, 2), "bytes": x.nbytes}
    return Figure(key, "ratio", ratios(copied, added), at_least(0.8), notes)
