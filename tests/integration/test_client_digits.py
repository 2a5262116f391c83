"""The digits example learns: FedAvg by hand, without a platform, with the job's own settings."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_digits

from lifl.client.torch import FedProx
from lifl.update import Schema

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
TARGET = 0.95


@pytest.fixture(scope="module")
def example() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The example's ``data`` and ``model`` modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DIGITS))
        yield importlib.import_module("data"), importlib.import_module("model")
        for name in ("data", "model"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DIGITS / "job.yaml").read_text())["spec"]
    return found


def test_the_data_are_scikit_learns(example: tuple[ModuleType, ModuleType]) -> None:
    data, _ = example
    ours, theirs = data.load_digits(), load_digits()
    assert np.array_equal(ours.images[:, 0] * 16, theirs.images)
    assert np.array_equal(ours.labels, theirs.target)


def test_the_split_is_a_partition_uneven_and_the_same_for_everyone(
    example: tuple[ModuleType, ModuleType], config: dict[str, Any]
) -> None:
    data, _ = example
    asked = config["clientConfig"]
    args = (int(asked["clients"]), float(asked["alpha"]), int(asked["seed"]))
    parts = [data.client_samples(i, *args) for i in range(args[0])]
    held_out = data.held_out_samples(args[2])
    everything = np.concatenate([p.images for p in (*parts, held_out)]).reshape(-1, 64)
    original = data.load_digits().images.reshape(-1, 64)
    assert np.array_equal(everything[np.lexsort(everything.T)], original[np.lexsort(original.T)])
    shares = np.array([np.bincount(p.labels, minlength=10) / len(p) for p in parts])
    assert shares.max(axis=1).mean() > 0.25, "a uniform split has 0.1"
    assert min(map(len, parts)) >= data.MIN_SAMPLES
    again = data.client_samples(3, *args)
    assert np.array_equal(again.images, parts[3].images)


def test_the_initial_model_in_the_repository_is_the_examples(
    example: tuple[ModuleType, ModuleType],
) -> None:
    _, model = example
    state = {n: t.numpy() for n, t in model.build().state_dict().items()}
    schema = Schema.from_file(DIGITS / "model.safetensors")
    assert schema == Schema.of(state)
    assert schema.float_elements == 38_282


def test_95_percent_within_the_jobs_rounds(
    example: tuple[ModuleType, ModuleType], config: dict[str, Any]
) -> None:
    data, model = example
    asked = config["clientConfig"]
    args = (int(asked["clients"]), float(asked["alpha"]), int(asked["seed"]))
    parts = [data.client_samples(i, *args) for i in range(args[0])]
    held_out = data.held_out_samples(args[2])
    total = sum(map(len, parts))
    net = model.build()
    weights = {n: t.clone() for n, t in net.state_dict().items()}
    for number in range(1, int(config["rounds"]) + 1):
        mean = {n: torch.zeros_like(t) for n, t in weights.items()}
        for client, samples in enumerate(parts, 1):
            net.load_state_dict(weights)
            model.train(
                net,
                samples,
                epochs=asked["localEpochs"],
                batch_size=asked["batchSize"],
                learning_rate=asked["learningRate"],
                seed=1000 * number + client,
                penalty=FedProx(net, asked["mu"]).penalty,
            )
            for n, t in net.state_dict().items():
                mean[n] += t * (len(samples) / total)
        weights = mean
        net.load_state_dict(weights)
        accuracy, _ = model.evaluate(net, held_out)
        if accuracy >= TARGET:
            return
    pytest.fail(f"{accuracy:.2%} after {config['rounds']} rounds")
