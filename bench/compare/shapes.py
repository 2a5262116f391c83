"""The true layer shapes of ResNet-18, -34 and -152, and ready-made updates of them.

Why: how many tensors an update has, and how large the largest is, decides what a server that
handles them one by one costs. The shapes follow from the architecture's definition, so that
neither torchvision nor weights are needed. It must not know who is measured.

Definition: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (2016),
table 1 and the bottleneck design of its section 4.1; names as torchvision's ``state_dict`` gives
them. An update holds the *parameters*: 62, 110 and 467 tensors. BatchNorm's running mean,
variance and counter (60, 108 and 465 more) are buffers of a client's own and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bench import harness
from lifl.update import Schema, TensorSpec, iter_document

CLASSES = 62
"""FEMNIST: ten digits and 52 letters."""
STEM = 64


class Architecture(NamedTuple):
    """A ResNet: blocks a stage, and how many times wider than a stage a block's output is."""

    title: str
    blocks: tuple[int, int, int, int]
    expansion: int

    @property
    def bottleneck(self) -> bool:
        """Return whether blocks are of three convolutions (1×1, 3×3, 1×1) instead of two (3×3)."""
        return self.expansion > 1


ARCHITECTURES = {
    "45mb": Architecture("ResNet-18", (2, 2, 2, 2), 1),
    "85mb": Architecture("ResNet-34", (3, 4, 6, 3), 1),
    "233mb": Architecture("ResNet-152", (3, 8, 36, 3), 4),
}
DIGITS = (
    TensorSpec("0.weight", "F32", (16, 1, 3, 3)),
    TensorSpec("0.bias", "F32", (16,)),
    TensorSpec("2.weight", "F32", (32, 16, 3, 3)),
    TensorSpec("2.bias", "F32", (32,)),
    TensorSpec("6.weight", "F32", (64, 512)),
    TensorSpec("6.bias", "F32", (64,)),
    TensorSpec("8.weight", "F32", (10, 64)),
    TensorSpec("8.bias", "F32", (10,)),
)
"""The small CNN of ``examples/digits``."""


def parameters(architecture: Architecture, classes: int = CLASSES) -> Iterator[TensorSpec]:
    """Yield every parameter's name and shape (float32), in the order of the layers."""
    yield TensorSpec("conv1.weight", "F32", (STEM, 3, 7, 7))
    yield from _norm("bn1", STEM)
    inputs = STEM
    for stage, blocks in enumerate(architecture.blocks):
        width = STEM << stage
        outputs = width * architecture.expansion
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            convolutions = (
                [(width, inputs, 1), (width, width, 3), (outputs, width, 1)]
                if architecture.bottleneck
                else [(width, inputs, 3), (outputs, width, 3)]
            )
            for i, (to, of, kernel) in enumerate(convolutions, start=1):
                yield TensorSpec(f"{name}.conv{i}.weight", "F32", (to, of, kernel, kernel))
                yield from _norm(f"{name}.bn{i}", to)
            # a shortcut is projected where a block changes the size
            if block == 0 and (stage > 0 or inputs != outputs):
                yield TensorSpec(f"{name}.downsample.0.weight", "F32", (outputs, inputs, 1, 1))
                yield from _norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    yield TensorSpec("fc.weight", "F32", (classes, inputs))
    yield TensorSpec("fc.bias", "F32", (classes,))


def _norm(name: str, channels: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", "F32", (channels,))
    yield TensorSpec(f"{name}.bias", "F32", (channels,))


def schema(model: str) -> Schema:
    """Return the schema of a model by its key in ``bench.sizes.BYTES``, or of ``digits``."""
    return Schema(DIGITS if model == "digits" else parameters(ARCHITECTURES[model]))


def title(model: str) -> str:
    """Return what people call the model."""
    if model == "digits":
        return "the small CNN (0.15 MB)"
    found = ARCHITECTURES.get(model)
    return f"{found.title} ({model[:-2]} MB)" if found else f"{model[:-2]} kB of float32"


def document(model: str) -> bytes:
    """Return a ready-made update: one safetensors document, small random float32.

    ``model`` is a key of ``bench.sizes.BYTES``, ``digits``, or for trials so many
    kilobytes in 62 equal tensors: ``1000kb``.
    """
    if model.endswith("kb"):
        return harness.model_document(int(model.removesuffix("kb")) * 1000)
    if model != "digits" and model not in ARCHITECTURES:
        raise ValueError(f"no model {model!r}; there are digits, {', '.join(ARCHITECTURES)}, …kb")
    shape = schema(model)
    block = np.random.default_rng(1).standard_normal(1 << 16, np.float32) * np.float32(0.01)
    tensors = {t.name: np.resize(block, t.shape) for t in shape.tensors}
    return b"".join(iter_document(tensors, shape))
