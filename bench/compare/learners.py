"""What the two trainings do: their models, data and local steps, for ``training``.

Why apart: it imports torch, which only the process that trains needs. It must not know
rounds, sides or processes.

* ``digits``: model, data and split of ``examples/digits``.
* ``resnet18``: a LEAF file's users if one is given. Else digits scaled to 28×28, dealt by shards
  (McMahan et al., 2017): sorted by class and cut into four pieces a client, so that a client
  knows about four classes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.compare import leaf
from bench.compare.models import Arrays
from bench.compare.trained import Task
from bench.compare.training import Learner

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
SEED = 8
SHARDS = 4
HELD_OUT_USERS = 0.2


def learner(task: Task, leaf_file: Path | None = None) -> tuple[Learner, str]:
    """Return how to do a task, and what its data are, for people.

    Raises
    ------
    ValueError
        if the LEAF file is none, or has too few users.
    """
    torch.set_num_threads(1)
    if task.model == "digits":
        return _digits(task)
    if leaf_file is None:
        parts, held_out = digits_by_shards(task.clients)
        data = "scikit-learn's digits, scaled to 28×28, in place of FEMNIST"
    else:
        parts, held_out = by_user(leaf.read(leaf_file), task.clients)
        data = f"{len(parts)} users of FEMNIST from {leaf_file.name}"
    return _resnet(parts, held_out), data


def example(name: str) -> Any:
    """Import a module of ``examples/digits``."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLE))


def digits_by_shards(clients: int) -> tuple[list[leaf.Samples], leaf.Samples]:
    """Return each client's samples, and those that are held out."""
    data = example("data")
    known, held_out = data.split_held_out(data.load_digits(), SEED)
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(known.labels))
    order = order[np.argsort(known.labels[order], kind="stable")]
    shards = np.array_split(order, clients * SHARDS)
    dealt = rng.permutation(len(shards)).reshape(clients, SHARDS)
    images = leaf.scaled(known.images)
    parts = [np.concatenate([shards[i] for i in own]) for own in dealt]
    return (
        [leaf.Samples(images[p], known.labels[p]) for p in parts],
        leaf.Samples(leaf.scaled(held_out.images), held_out.labels),
    )


def by_user(
    users: dict[str, leaf.Samples], clients: int
) -> tuple[list[leaf.Samples], leaf.Samples]:
    """Return the first ``clients`` users' samples, and of each the last fifth, held out."""
    if len(users) < clients:
        raise ValueError(f"{len(users)} users are too few: the task has {clients} clients")
    parts, held_out = [], []
    for samples in list(users.values())[:clients]:
        cut = round((1 - HELD_OUT_USERS) * len(samples.labels))
        parts.append(leaf.Samples(samples.images[:cut], samples.labels[:cut]))
        held_out.append(leaf.Samples(samples.images[cut:], samples.labels[cut:]))
    return parts, leaf.Samples(*map(np.concatenate, zip(*held_out, strict=True)))


def _digits(task: Task) -> tuple[Learner, str]:
    data, model = example("data"), example("model")
    known, held_out = data.split_held_out(data.load_digits(), SEED)
    split = data.split_dirichlet(known.labels, task.clients, 0.4, SEED)
    parts = [known.take(index) for index in split]
    net = model.build()

    def train(arrays: Arrays, client: int, number: int) -> Arrays:
        _load(net, arrays)
        model.train(
            net,
            parts[client],
            epochs=3,
            batch_size=16,
            learning_rate=0.05,
            seed=1000 * number + client,
        )
        return _arrays(net)

    def evaluate(arrays: Arrays) -> tuple[float, float]:
        _load(net, arrays)
        accuracy, loss = model.evaluate(net, held_out)
        return float(accuracy), float(loss)

    found = Learner(lambda: _arrays(model.build()), train, lambda c: len(parts[c]), evaluate)
    return found, "scikit-learn's digits, split unevenly as in examples/digits"


def _resnet(parts: Sequence[leaf.Samples], held_out: leaf.Samples) -> Learner:
    net = leaf.build()

    def train(arrays: Arrays, client: int, number: int) -> Arrays:
        _load(net, arrays)
        seed = 1000 * number + client
        leaf.train(net, parts[client], epochs=2, batch=12, rate=0.02, seed=seed)
        return _arrays(net)

    def evaluate(arrays: Arrays) -> tuple[float, float]:
        _load(net, arrays)
        return leaf.evaluate(net, held_out)

    return Learner(lambda: _arrays(leaf.build()), train, lambda c: len(parts[c].labels), evaluate)


def _load(net: nn.Module, arrays: Arrays) -> None:
    net.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})


def _arrays(net: nn.Module) -> Arrays:
    return {name: t.detach().numpy().copy() for name, t in net.state_dict().items()}
