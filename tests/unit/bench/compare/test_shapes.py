"""Layer shapes of the ResNets, against their known parameter counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.compare import shapes
from bench.sizes import BYTES
from lifl.update import parse_header, views


@pytest.mark.parametrize(
    ("model", "tensors", "with_1000_classes"),
    [
        ("45mb", 62, 11_689_512),
        ("85mb", 110, 21_797_672),
        ("233mb", 467, 60_192_808),
    ],
)
def test_parameters(model: str, tensors: int, with_1000_classes: int) -> None:
    architecture = shapes.ARCHITECTURES[model]
    whole = list(shapes.parameters(architecture, classes=1000))
    assert sum(math.prod(t.shape) for t in whole) == with_1000_classes
    ours = list(shapes.parameters(architecture))
    assert len(ours) == len({t.name for t in ours}) == tensors
    nbytes = 4 * sum(math.prod(t.shape) for t in ours)
    assert nbytes == pytest.approx(BYTES[model], rel=2e-3)


def test_names_and_shapes_are_torchvisions() -> None:
    small = {t.name: t.shape for t in shapes.parameters(shapes.ARCHITECTURES["45mb"])}
    assert small["conv1.weight"] == (64, 3, 7, 7)
    assert small["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert "layer1.0.downsample.0.weight" not in small
    assert small["layer4.1.conv2.weight"] == (512, 512, 3, 3)
    assert small["fc.weight"] == (62, 512)
    large = {t.name: t.shape for t in shapes.parameters(shapes.ARCHITECTURES["233mb"])}
    assert large["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert large["layer3.35.conv3.weight"] == (1024, 256, 1, 1)
    assert large["layer4.0.conv2.weight"] == (512, 512, 3, 3)
    assert large["fc.weight"] == (62, 2048)


def test_digits_shapes_are_those_of_the_example() -> None:
    assert sum(math.prod(t.shape) for t in shapes.DIGITS) == 38_282


def test_document_is_an_update_with_the_models_tensors() -> None:
    document = shapes.document("digits")
    header = parse_header(document, len(document))
    assert {t.name: t.shape for t in header.tensors} == {t.name: t.shape for t in shapes.DIGITS}
    values = views(document, header)["6.weight"]
    assert np.isfinite(values).all()
    assert 0 < float(np.abs(values).mean()) < 0.1
    assert shapes.document("digits") == document


def test_document_for_trials() -> None:
    document = shapes.document("1000kb")
    assert len(document) == pytest.approx(1_000_000, rel=0.01)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no model 'resnet'"):
        shapes.document("resnet")
