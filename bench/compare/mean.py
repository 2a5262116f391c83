"""Whether a side's model is the mean of what clients sent, looked at in places all over it.

Why: a round that is fast because something was left out must not count. All clients send the same
document, each with another number of samples, so the mean is the document and the Σ of
samples tells whether all are in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
PLACES = 64


def samples(client: int) -> int:
    """Return how many samples client ``client`` says it has."""
    return 10 + client


def all_samples(clients: int) -> int:
    """Return the Σ of samples of the first ``clients`` clients."""
    return sum(map(samples, range(clients)))


def places(elements: int) -> list[int]:
    """Return the elements to look at: the first, the last and some spread in between."""
    return sorted({round(i * (elements - 1) / (PLACES - 1)) for i in range(PLACES)})


def check(who: str, expected: F32, found: F32) -> None:
    """Compare elements of a document with those of a mean of such documents.

    Raises
    ------
    RuntimeError
        if they are more apart than float32 sums in another order may be.
    """
    if expected.shape != found.shape:
        raise RuntimeError(
            f"{who}: {found.size} elements of a mean, {expected.size} were asked for"
        )
    wrong = ~np.isclose(found, expected, rtol=1e-5, atol=1e-7)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise RuntimeError(
            f"{who}: {wrong.sum()} of {wrong.size} elements of the mean are wrong, "
            f"first {found[at]:g} where {expected[at]:g} was sent"
        )


def check_samples(who: str, found: float, clients: int) -> None:
    """Raise RuntimeError unless ``found`` is the Σ of samples of the first ``clients`` clients."""
    if found != all_samples(clients):
        raise RuntimeError(
            f"{who}: the mean is over {found:g} samples, {all_samples(clients)} were sent"
        )
