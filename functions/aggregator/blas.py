"""The kernels that add one vector to another: OpenBLAS by ctypes, and plain numpy.

Why: the sum must run at memory speed with one thread, in a process that starts
fast. ``bench/kernels.py`` compares the candidates; OpenBLAS' single-precision
``axpy`` won for one vector and its ``gemv`` for two, and loading its shared library costs a
fraction of importing SciPy.
This is the one module that knows ``scipy_openblas32``. Where that package is
missing :class:`NumpyKernel` gives the same result within rounding, at about half
the speed.

It must not know what the vectors mean, and a kernel keeps no state between calls.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

BLOCK = 65536
"""Elements of a cache block: 256 KB of float32, so that a block and its scratch fit in L2."""

LONG = 1 << 20
"""Elements of a call that takes two vectors at once, which needs no cache between calls."""

_CALL_MAX = 1 << 30
"""Elements per BLAS call: its counts are 32-bit signed."""
_BY_COLUMNS, _AS_IT_IS = 102, 111
"""CBLAS' names for how a matrix lies in memory, and for one that is not transposed."""

Term = tuple[float, F32]
"""A vector and what it is multiplied by."""
Part = Callable[[int, int], None]
"""Adds something to ``n`` elements of a vector, from byte ``at`` on."""


class Kernel(Protocol):
    """Element-wise operations on contiguous float32 vectors of equal length."""

    name: str

    def axpby(self, a: float, x: F32, b: float, y: F32) -> None:
        """Compute ``y = a*x + b*y`` in one pass; with ``b == 0`` y is not read."""

    def add(self, terms: Sequence[Term], b: float, y: F32) -> None:
        """Compute ``y = Σ aᵢ*xᵢ + b*y`` in one pass over y, which goes to memory and back once.

        With ``b == 0`` y is not read; there is at least one term.
        """

    def scale(self, b: float, y: F32) -> None:
        """Compute ``y = b*y``."""


class NumpyKernel:
    """Cache-blocked numpy: always there."""

    name = "numpy"

    def axpby(self, a: float, x: F32, b: float, y: F32) -> None:
        """Compute ``y = a*x + b*y``."""
        if b == 0.0:
            np.multiply(x, np.float32(a), out=y)
            return
        block = np.empty(min(BLOCK, len(y)), np.float32)
        for start in range(0, len(y), BLOCK):
            part = y[start : start + BLOCK]
            scratch = block[: len(part)]
            np.multiply(x[start : start + BLOCK], np.float32(a), out=scratch)
            if b != 1.0:
                np.multiply(part, np.float32(b), out=part)
            np.add(part, scratch, out=part)

    def add(self, terms: Sequence[Term], b: float, y: F32) -> None:
        """Compute ``y = Σ aᵢ*xᵢ + b*y``, block by block."""
        if len(terms) == 1:
            ((a, x),) = terms
            self.axpby(a, x, b, y)
            return
        for start in range(0, len(y), BLOCK):
            here, keep = slice(start, start + BLOCK), b
            for a, x in terms:
                self.axpby(a, x[here], keep, y[here])
                keep = 1.0

    def scale(self, b: float, y: F32) -> None:
        """Compute ``y = b*y``."""
        np.multiply(y, np.float32(b), out=y)


class BlasKernel:
    """OpenBLAS, one thread; releases the interpreter's lock while it sums.

    Raises
    ------
    OSError
        if the library is not installed or does not load.
    """

    name = "openblas"

    def __init__(self) -> None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read once, when it is loaded
        library = ctypes.CDLL(str(_library_path()))
        i32, f32, ptr = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
        self._saxpy = library.scipy_cblas_saxpy
        self._saxpy.argtypes = [i32, f32, ptr, i32, ptr, i32]
        self._saxpy.restype = None
        self._sscal = library.scipy_cblas_sscal
        self._sscal.argtypes = [i32, f32, ptr, i32]
        self._sscal.restype = None
        self._sgemv = library.scipy_cblas_sgemv
        self._sgemv.argtypes = [i32, i32, i32, i32, f32, ptr, i32, ptr, i32, f32, ptr, i32]
        self._sgemv.restype = None
        library.scipy_openblas_set_num_threads(1)

    def axpby(self, a: float, x: F32, b: float, y: F32) -> None:
        """Compute ``y = a*x + b*y``.

        With another ``b`` than 0 and 1 it goes block by block, each scaled and added to
        while it is in cache: OpenBLAS' own ``saxpby`` has no vector code and takes
        almost twice as long.
        """
        if b == 0.0:
            np.multiply(x, np.float32(a), out=y)
            return
        _check(x, y)
        source, target = x.ctypes.data, y.ctypes.data
        step = _CALL_MAX if b == 1.0 else BLOCK
        for start in range(0, len(y), step):
            n, at = min(step, len(y) - start), 4 * start
            if b != 1.0:
                self._sscal(n, b, target + at, 1)
            self._saxpy(n, a, source + at, 1, target + at, 1)

    def add(self, terms: Sequence[Term], b: float, y: F32) -> None:
        """Compute ``y = Σ aᵢ*xᵢ + b*y``, block by block: all terms while y's is in cache.

        Two at a time, as they lie in memory, are the columns of a matrix whose leading dimension
        is the distance between them: ``sgemv`` reads both and y at once.
        """
        (a, x), *rest = terms
        if not rest:
            self.axpby(a, x, b, y)
            return
        for _, vector in terms:
            _check(vector, y)
        target = y.ctypes.data
        parts = self._parts(rest if b == 0.0 else terms, target, len(y))
        step = LONG if b == 1.0 and len(parts) == 1 else BLOCK
        for start in range(0, len(y), step):
            n, at = min(step, len(y) - start), 4 * start
            if b == 0.0:
                np.multiply(x[start : start + n], np.float32(a), out=y[start : start + n])
            elif b != 1.0:
                self._sscal(n, b, target + at, 1)
            for part in parts:
                part(n, at)

    def _parts(self, terms: Sequence[Term], y: int, elements: int) -> list[Part]:
        """Return what adds the terms to the vector at address ``y``, in as few calls as it can."""
        lying = sorted((vector.ctypes.data, factor) for factor, vector in terms)
        found: list[Part] = []
        while lying:
            first, *others = lying
            apart = others[0][0] - first[0] if others else 0
            if others and apart % 4 == 0 and 0 < elements <= apart // 4 < _CALL_MAX:
                found.append(self._two(first, others.pop(0), y))
            else:
                found.append(self._one(first, y))
            lying = others
        return found

    def _one(self, x: tuple[int, float], y: int) -> Part:
        source, a = x
        return lambda n, at: self._saxpy(n, a, source + at, 1, y + at, 1)

    def _two(self, low: tuple[int, float], high: tuple[int, float], y: int) -> Part:
        first, apart = low[0], (high[0] - low[0]) // 4
        factors = (ctypes.c_float * 2)(low[1], high[1])
        return lambda n, at: self._sgemv(
            _BY_COLUMNS, _AS_IT_IS, n, 2, 1.0, first + at, apart, factors, 1, 1.0, y + at, 1
        )

    def scale(self, b: float, y: F32) -> None:
        """Compute ``y = b*y``."""
        np.multiply(y, np.float32(b), out=y)


def _check(x: F32, y: F32) -> None:
    """Refuse what would make the library write outside ``y``."""
    if (
        x.dtype != np.float32
        or y.dtype != np.float32
        or x.shape != y.shape
        or x.ndim != 1
        or not (x.flags.c_contiguous and y.flags.c_contiguous and y.flags.writeable)
    ):
        raise ValueError("the kernel takes two contiguous float32 vectors of one length")


def _library_path() -> Path:
    """Find the library without importing its package, which would cost 25 ms more."""
    spec = importlib.util.find_spec("scipy_openblas32")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place, "lib").glob("libscipy_openblas*.so")):
            return path
    raise OSError("the package scipy-openblas32 is not installed")


def best_kernel() -> Kernel:
    """Return OpenBLAS, or numpy where it is missing."""
    try:
        return BlasKernel()
    except OSError:
        return NumpyKernel()
