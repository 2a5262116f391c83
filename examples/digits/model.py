"""A small CNN for 8×8 digits (38,282 parameters), and how to train and judge it.

Run as a program it writes the job's initial model::

    python examples/digits/model.py examples/digits/model.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from data import Samples
from torch import Tensor, nn

torch.set_num_threads(1)

Penalty = Callable[[], Tensor]


def build(seed: int = 0) -> nn.Module:
    """Return a fresh model; the same one for the same seed."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(
    model: nn.Module,
    samples: Samples,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    penalty: Penalty | None = None,
) -> float:
    """Train in place with SGD; return the mean loss of the last epoch.

    ``penalty`` is added to each batch's loss (FedProx).
    """
    model.train()
    images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for index in torch.randperm(len(samples), generator=generator).split(batch_size):
            loss = nn.functional.cross_entropy(model(images[index]), labels[index])
            total += loss.item() * len(index)
            if penalty is not None:
                loss = loss + penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return total / len(samples)


def evaluate(model: nn.Module, samples: Samples) -> tuple[float, float]:
    """Return (accuracy, mean loss)."""
    model.eval()
    labels = torch.from_numpy(samples.labels)
    with torch.no_grad():
        scores = model(torch.from_numpy(samples.images))
        loss = nn.functional.cross_entropy(scores, labels).item()
    return (scores.argmax(1) == labels).float().mean().item(), loss


if __name__ == "__main__":
    from safetensors.torch import save_file

    target = Path(sys.argv[1] if len(sys.argv) > 1 else "model.safetensors")
    save_file(build().state_dict(), target)
    print(f"wrote {target}")
