"""scikit-learn's digits, split unevenly over clients.

1,797 handwritten digits of 8×8 pixels. A fifth of each class is held out for
evaluation; the rest is dealt to the clients class by class in proportions
drawn from a Dirichlet distribution, so that clients differ in what they know
and in how much (Hsu, Qi and Brown, 2019). Everyone who asks with the same seed
sees the same split, so clients need not talk to each other.
"""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLASSES = 10
HELD_OUT = 0.2
MIN_SAMPLES = 16


@dataclass(frozen=True)
class Samples:
    """``images``: float32 (n, 1, 8, 8) in [0, 1]; ``labels``: int64 (n,)."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.intp]) -> Samples:
        """Return the samples at ``index``."""
        return Samples(self.images[index], self.labels[index])


def load_digits() -> Samples:
    """Read the data file that scikit-learn ships.

    scikit-learn itself is not imported: that takes a second and 100 MB in each
    of the client processes, for a table of 1,797 lines.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise SystemExit("scikit-learn is not installed: pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as f:
        table = np.loadtxt(f, delimiter=",", dtype=np.float32)
    images = (table[:, :-1] / np.float32(16)).reshape(-1, 1, 8, 8)
    return Samples(images, table[:, -1].astype(np.int64))


def split_held_out(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """Return (training, held-out) samples; each class gives the same share."""
    rng = np.random.default_rng(seed)
    train, held_out = [], []
    for label in range(CLASSES):
        index = rng.permutation(np.flatnonzero(samples.labels == label))
        cut = round(HELD_OUT * len(index))
        held_out.append(index[:cut])
        train.append(index[cut:])
    return samples.take(np.concatenate(train)), samples.take(np.concatenate(held_out))


def split_dirichlet(
    labels: npt.NDArray[np.int64], clients: int, alpha: float, seed: int
) -> list[npt.NDArray[np.intp]]:
    """Deal the indices of ``labels`` to ``clients``, non-IID.

    Small ``alpha`` means few classes a client; drawn again until each client
    has at least 16 samples.
    """
    if clients * MIN_SAMPLES > len(labels):
        raise ValueError(f"{len(labels)} samples are too few for {clients} clients")
    rng = np.random.default_rng(seed)
    while True:
        parts: list[list[npt.NDArray[np.intp]]] = [[] for _ in range(clients)]
        for label in range(CLASSES):
            index = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(clients, alpha))
            cuts = np.round(np.cumsum(shares)[:-1] * len(index)).astype(int)
            for part, piece in zip(parts, np.split(index, cuts), strict=True):
                part.append(piece)
        dealt = [rng.permutation(np.concatenate(part)) for part in parts]
        if min(map(len, dealt)) >= MIN_SAMPLES:
            return dealt


def client_samples(number: int, clients: int, alpha: float, seed: int) -> Samples:
    """Return what client ``number`` (0 to ``clients`` - 1) trains on."""
    train, _ = split_held_out(load_digits(), seed)
    return train.take(split_dirichlet(train.labels, clients, alpha, seed)[number])


def held_out_samples(seed: int) -> Samples:
    """Return the samples no client trains on."""
    return split_held_out(load_digits(), seed)[1]
