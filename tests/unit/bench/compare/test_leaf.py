"""ResNet-18 for FEMNIST's pictures: its shapes, LEAF's files, one real local step."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.compare import leaf, shapes

RNG = np.random.default_rng(3)


def _leaf_file(path: Path, **changes: Any) -> Path:
    raw: dict[str, Any] = {
        "users": ["f0000_14", "f0001_41"],
        "num_samples": [3, 2],
        "user_data": {
            "f0000_14": {"x": RNG.random((3, 784)).tolist(), "y": [0, 10, 61]},
            "f0001_41": {"x": RNG.random((2, 784)).tolist(), "y": [4, 4]},
        },
    }
    path.write_text(json.dumps(raw | changes))
    return path


def test_the_model_has_the_true_layer_shapes() -> None:
    model = leaf.build()
    found = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert found == {t.name: t.shape for t in shapes.parameters(shapes.ARCHITECTURES["45mb"])}
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 62)


def test_a_leaf_file_is_read(tmp_path: Path) -> None:
    path = _leaf_file(tmp_path / "all_data_0.json")
    found = leaf.read(path)
    assert list(found) == ["f0000_14", "f0001_41"]
    first = found["f0000_14"]
    assert first.images.shape == (3, 1, 28, 28)
    assert first.images.dtype == np.float32
    assert first.labels.tolist() == [0, 10, 61]
    raw = json.loads(path.read_text())["user_data"]["f0000_14"]["x"]
    assert first.images[1, 0, 2, 5] == pytest.approx(raw[1][2 * 28 + 5])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"users": ["f0000_14"]}, "1 users, but 2"),
        ({"users": ["f0000_14", "nobody"]}, "nobody called nobody"),
        ({"num_samples": [3, 4]}, r"num_samples says 4; x is \(2, 784\)"),
        ({"user_data": None}, "two lists and an object"),
        (
            {"user_data": {"f0000_14": {"x": [[0.0] * 784] * 3, "y": [0, 1, 62]}}},
            "labels must be from 0 to 61",
        ),
    ],
)
def test_a_bad_leaf_file_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        leaf.read(_leaf_file(tmp_path / "bad.json", **changes))


def test_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("users")
    with pytest.raises(ValueError, match="no file of LEAF"):
        leaf.read(path)


def test_one_real_local_step_learns(tmp_path: Path) -> None:
    samples = leaf.read(_leaf_file(tmp_path / "data.json"))["f0000_14"]
    model = leaf.build()
    before = copy.deepcopy(model.state_dict())
    first = leaf.train(model, samples, epochs=1, batch=3, rate=0.01, seed=1)
    again = leaf.train(model, samples, epochs=1, batch=3, rate=0.01, seed=2)
    assert again < first
    changed = [n for n, t in model.state_dict().items() if not torch.equal(t, before[n])]
    assert len(changed) == 62
    accuracy, loss = leaf.evaluate(model, samples)
    assert 0 <= accuracy <= 1
    assert np.isfinite(loss)


def test_scaled() -> None:
    small = np.zeros((1, 1, 8, 8), np.float32)
    small[0, 0, :, 4:] = 1
    large = leaf.scaled(small)
    assert large.shape == (1, 1, 28, 28)
    assert large[0, 0, 5, 0] == 0
    assert large[0, 0, 5, 27] == 1
