"""The sum of one round in an always-on aggregator: float32, filled message by message.

Why: an aggregator that stays keeps its memory, so the accumulator is touched once and reused,
and a message is added while it is still in cache; keeping whole updates first would write and
read every byte once more. Threads may add at once: each part of the sum has a lock. It knows
neither gRPC nor who sends.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from bench.compare.serverful.protocol import PIECE
from functions.aggregator.blas import Kernel

F32 = npt.NDArray[np.float32]
STEP = PIECE // 4


class Sum:
    """``Σ weight·x`` over vectors of ``elements`` float32, and the Σ of samples behind it."""

    def __init__(self, elements: int, kernel: Kernel) -> None:
        self._kernel = kernel
        self._parts = [threading.Lock() for _ in range(-(-elements // STEP))]
        self._floats: F32 = np.ones(elements, np.float32)  # ones: the pages must be there
        self._spare: F32 | None = None
        self.clear()

    def clear(self) -> None:
        """Begin anew; nothing is written, the first input of a part replaces what is there."""
        self._written = [False] * len(self._parts)
        self.samples = 0.0

    def add(self, number: int, piece: bytes, weight: float) -> None:
        """Add ``weight`` times message ``number`` of an input.

        Raises
        ------
        ValueError
            if there is no such message in a vector of this length, or it has another size.
        """
        into = self._floats[number * STEP : (number + 1) * STEP]
        if not len(into) or len(piece) != 4 * len(into):
            raise ValueError(
                f"message {number} has {len(piece)} bytes, {4 * len(into)} were expected"
            )
        values = np.frombuffer(piece, np.float32)
        with self._parts[number]:
            self._kernel.axpby(weight, values, float(self._written[number]), into)
            self._written[number] = True

    def complete(self, messages: int, samples: float) -> None:
        """Say that an input of so many messages has ended.

        Raises
        ------
        ValueError
            if messages are missing.
        """
        if messages != len(self._written):
            raise ValueError(f"{messages} of {len(self._written)} messages arrived")
        self.samples += samples

    def view(self) -> memoryview:
        """Return the bytes of the sum as it stands."""
        return memoryview(self._floats).cast("B")

    def take_mean(self) -> F32:
        """Return the mean and begin anew in other memory: the mean of the round before last."""
        self._kernel.scale(1.0 / self.samples, self._floats)
        mean = self._floats
        self._floats = np.ones_like(mean) if self._spare is None else self._spare
        self._spare = mean
        self.clear()
        return mean
