"""ResNet-18 on pictures of 28×28 in 62 classes: the model, a local step, and LEAF's files.

Why: it is the model and the shape of data of the LIFL paper's evaluation (ResNet-18 on FEMNIST).
FEMNIST itself is not shipped: ``read`` takes it in the format of LEAF's JSON files
(Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018), and where there is none
``digits`` makes pictures of that shape from scikit-learn's. It must not know rounds or clients.

The model has exactly the 62 tensors of ``shapes``: BatchNorm keeps no running statistics, each
batch has its own, also when the model is judged. A grey picture goes into all three channels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bench.compare.shapes import ARCHITECTURES, CLASSES

SIDE = 28
PIXELS = SIDE * SIDE


class Samples(NamedTuple):
    """``images``: float32 (n, 1, 28, 28) in [0, 1]; ``labels``: int64 (n,), 0 to 61."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def read(path: Path) -> dict[str, Samples]:
    """Return each user's samples of one LEAF file of FEMNIST.

    ``{"users": […], "num_samples": […], "user_data": {user: {"x": [[784 numbers]], "y": […]}}}``

    Raises
    ------
    ValueError
        if the file is none such; it says where.
    """
    try:
        raw = json.loads(path.read_text())
        users, numbers, data = raw["users"], raw["num_samples"], raw["user_data"]
    except (json.JSONDecodeError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is no file of LEAF: {type(e).__name__}: {e}") from e
    if not (isinstance(users, list) and isinstance(numbers, list) and isinstance(data, dict)):
        raise ValueError(  # noqa: TRY004  (the file's fault, not a caller's)
            f"{path} is no file of LEAF: two lists and an object are expected"
        )
    if len(users) != len(numbers):
        raise ValueError(f"{path}: {len(users)} users, but {len(numbers)} in num_samples")
    found = {}
    for user, number in zip(users, numbers, strict=True):
        if user not in data:
            raise ValueError(f"{path}: user_data has nobody called {user}")
        found[user] = _samples(f"{path}, user {user}", data[user], number)
    return found


def _samples(where: str, data: Any, number: int) -> Samples:
    try:
        images = np.asarray(data["x"], np.float32)
        labels = np.asarray(data["y"], np.int64)
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"{where}: {type(e).__name__}: {e}") from e
    if images.shape != (number, PIXELS) or labels.shape != (number,):
        raise ValueError(
            f"{where}: num_samples says {number}; x is {images.shape}, y is {labels.shape}, "
            f"expected ({number}, {PIXELS}) and ({number},)"
        )
    if number and not (labels.min() >= 0 and labels.max() < CLASSES):
        raise ValueError(f"{where}: labels must be from 0 to {CLASSES - 1}")
    return Samples(images.reshape(-1, 1, SIDE, SIDE), labels)


def scaled(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return pictures of (n, 1, h, w) scaled to 28×28, bilinearly."""
    with torch.no_grad():
        large = nn.functional.interpolate(
            torch.from_numpy(images), (SIDE, SIDE), mode="bilinear", align_corners=False
        )
    return large.numpy()


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = _norm(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, _norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet18(nn.Module):
    """ResNet-18 as defined for ImageNet, with 62 classes; takes (n, 1, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = _norm(64)
        inputs = 64
        for stage, blocks in enumerate(ARCHITECTURES["45mb"].blocks):
            outputs = 64 << stage
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            layers = []
            for stride in strides:
                layers.append(Block(inputs, outputs, stride))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (n, 62)."""
        x = torch.relu(self.bn1(self.conv1(x.expand(-1, 3, -1, -1))))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def build(seed: int = 0) -> ResNet18:
    """Return a fresh model; the same one for the same seed."""
    torch.manual_seed(seed)
    model = ResNet18()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def train(
    model: nn.Module, samples: Samples, *, epochs: int, batch: int, rate: float, seed: int
) -> float:
    """Train in place with SGD (momentum 0.9); return the mean loss of the last epoch.

    A batch of one sample is left out: it has no statistics.
    """
    model.train()
    images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for index in torch.randperm(len(labels), generator=generator).split(batch):
            if len(index) < 2:
                continue
            loss = nn.functional.cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
    return total / len(labels)


def evaluate(model: nn.Module, samples: Samples, batch: int = 180) -> tuple[float, float]:
    """Return (accuracy, mean loss); statistics are those of each ``batch``."""
    model.eval()
    right, total = 0, 0.0
    with torch.no_grad():
        for images, labels in zip(*map(_split(batch), samples), strict=True):
            scores = model(images)
            right += int((scores.argmax(1) == labels).sum())
            total += nn.functional.cross_entropy(scores, labels, reduction="sum").item()
    return right / len(samples.labels), total / len(samples.labels)


def _split(batch: int) -> Any:
    def split(array: npt.NDArray[Any]) -> Sequence[Tensor]:
        return torch.from_numpy(array).split(batch)

    return split
