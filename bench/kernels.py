"""`python -m bench.kernels [MB]`: compare the kernels an aggregator could sum with.

Why: the choice in ``functions/aggregator/blas.py`` follows these figures. Every
candidate adds one vector or two into another in shared memory, on one thread (``team``: on
two); rounds are interleaved so that a slow moment hits all alike, and a copy of the same bytes
is the yardstick. Not part of ``make bench``: there ``aggregate_ratio`` holds the choice.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import numpy.typing as npt

from functions.aggregator.blas import BLOCK, BlasKernel, Kernel, NumpyKernel, best_kernel
from functions.aggregator.team import Team
from lifl.store import Pool, PoolGeometry

ROUNDS = 15
F32 = npt.NDArray[np.float32]
Candidates = dict[str, Callable[[], object]]


def additions(x: F32, y: F32) -> Candidates:
    """Return the ways to compute ``y += w*x``."""
    found: Candidates = {}
    numpy_kernel = NumpyKernel()
    found["numpy, plain"] = lambda: np.add(y, np.float32(0.5) * x, out=y)
    found["numpy, cache-blocked"] = lambda: numpy_kernel.axpby(0.5, x, 1.0, y)
    try:
        blas = BlasKernel()
        found["openblas axpy"] = lambda: blas.axpby(0.5, x, 1.0, y)
    except OSError as e:
        print(f"openblas: {e}", file=sys.stderr)
    try:
        import torch
    except ImportError:
        print("torch: not installed", file=sys.stderr)
    else:
        torch.set_num_threads(1)
        tx, ty = torch.from_numpy(x), torch.from_numpy(y)
        found["torch add_"] = lambda: ty.add_(tx, alpha=0.5)
    return found


def divisions(x: F32, y: F32) -> Candidates:
    """Return the ways to compute ``y = (y + w*x) / W``: a top's last addition."""
    kernel = best_kernel()

    def two_passes() -> None:
        kernel.axpby(0.5, x, 1.0, y)
        kernel.scale(0.9, y)

    def blocks() -> None:
        for i in range(0, len(y), BLOCK):
            part = y[i : i + BLOCK]
            kernel.axpby(0.5, x[i : i + BLOCK], 1.0, part)
            kernel.scale(0.9, part)

    return {
        "add, then scale": two_passes,
        "add and scale by blocks": blocks,
        "axpby": lambda: kernel.axpby(0.45, x, 0.9, y),
    }


def pairs(x: F32, other: F32, y: F32) -> Candidates:
    """Return the ways to compute ``y += w*x + v*z``: two inputs that waited together."""
    kernel, numpy_kernel = best_kernel(), NumpyKernel()
    team = Team(kernel, 2)  # its thread ends with the program

    def two_passes(kernel: Kernel) -> None:
        kernel.axpby(0.5, x, 1.0, y)
        kernel.axpby(0.25, other, 1.0, y)

    def blocks() -> None:
        for i in range(0, len(y), BLOCK):
            kernel.axpby(0.5, x[i : i + BLOCK], 1.0, y[i : i + BLOCK])
            kernel.axpby(0.25, other[i : i + BLOCK], 1.0, y[i : i + BLOCK])

    both = [(0.5, x), (0.25, other)]
    return {
        "one after the other": lambda: two_passes(kernel),
        "by blocks": blocks,
        "at once": lambda: kernel.add(both, 1.0, y),
        "numpy, at once": lambda: numpy_kernel.add(both, 1.0, y),
        "one after the other, team": lambda: two_passes(team),
        "at once, team": lambda: team.add(both, 1.0, y),
    }


def writes(x: F32, y: F32) -> Candidates:
    """Return the ways to compute ``y = w*x``: the first addition."""
    kernel = best_kernel()

    def zero_then_add() -> None:
        y.fill(0.0)
        kernel.axpby(0.5, x, 1.0, y)

    return {"zero, then add": zero_then_add, "multiply": lambda: kernel.axpby(0.5, x, 0.0, y)}


def measure(candidates: Candidates, reset: Callable[[], object]) -> dict[str, list[float]]:
    """Return each candidate's times in seconds; ``reset`` restores the vectors before each."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS + 2):
        for name, run in candidates.items():
            reset()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: values[2:] for name, values in times.items()}


def main() -> None:
    """Measure, print a table per question, name the fastest."""
    megabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 45.0
    elements = int(megabytes * 1e6) // 4
    geometry = PoolGeometry(3, -(-4 * elements // 4096) * 4096, 4096)
    pool = Pool.create("kernels", geometry, prefault_slots=3)
    x, y, copy = (pool.floats(slot)[:elements] for slot in range(3))
    x[:] = np.random.default_rng(0).standard_normal(elements, np.float32)
    copy[:] = 0
    bases = copy.ctypes.data, x.ctypes.data
    yardstick: Candidates = {"memory copy": lambda: ctypes.memmove(*bases, x.nbytes)}
    for title, candidates in (
        ("y += w*x", additions(x, y)),
        ("y = (y + w*x) / W", divisions(x, y)),
        ("y = w*x", writes(x, y)),
        ("y += w*x + v*z", pairs(x, copy, y)),
    ):
        times = measure(yardstick | candidates, lambda: y.fill(1.0))
        base = statistics.median(times["memory copy"])
        print(f"\n{title}, {x.nbytes / 1e6:.1f} MB, median of {ROUNDS}")
        for name, values in times.items():
            median = statistics.median(values)
            print(
                f"  {name:26s} {1000 * median:7.2f} ms ({1000 * min(values):.2f} to "
                f"{1000 * max(values):.2f})  copy / it = {base / median:.2f}"
            )
        best = min(candidates, key=lambda name: statistics.median(times[name]))
        print(f"  fastest: {best}")


if __name__ == "__main__":
    main()
