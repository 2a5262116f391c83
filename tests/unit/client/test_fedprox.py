"""FedProx's term against its formula, μ/2 · ‖w − w_global‖²."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lifl.client import proximal_gradient, proximal_loss
from lifl.client.torch import FedProx, arrays_of, load_into

MU = 0.3


def weights(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "b": rng.normal(size=5).astype(np.float32),
        "n": np.array(seed),
    }


def test_the_loss_is_the_formula() -> None:
    w, g = weights(1), weights(2)
    flat = np.concatenate([(w[k].astype(float) - g[k]).ravel() for k in ("a", "b")])
    assert proximal_loss(w, g, MU) == pytest.approx(MU / 2 * np.linalg.norm(flat) ** 2)
    assert proximal_loss(w, w, MU) == 0.0


def test_the_gradient_is_the_losss() -> None:
    w, g = weights(1), weights(2)
    gradient = proximal_gradient(w, g, MU)
    assert gradient.keys() == {"a", "b"}
    assert gradient["a"].dtype == np.float32
    step = 1e-3
    for name, index in (("a", (2, 1)), ("b", (4,))):
        moved = {k: w[k].astype(float) for k in ("a", "b")}
        moved[name][index] += step
        slope = (proximal_loss(moved, g, MU) - proximal_loss(w, g, MU)) / step
        assert gradient[name][index] == pytest.approx(slope, abs=1e-3)


def test_torch_agrees_with_numpy_in_value_and_gradient() -> None:
    torch.manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    module[1].bias.requires_grad = False
    start = {n: a.copy() for n, a in arrays_of(module.state_dict()).items()}
    near = FedProx(module, MU)
    assert near.penalty().item() == 0.0
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    now = arrays_of(module.state_dict())
    penalty = near.penalty()
    assert penalty.item() == pytest.approx(proximal_loss(now, start, MU), rel=1e-5)
    penalty.backward()
    want = proximal_gradient(now, start, MU)
    for name, p in module.named_parameters():
        if p.requires_grad:
            assert p.grad is not None
            np.testing.assert_allclose(p.grad.numpy(), want[name], rtol=1e-5)
        else:
            assert p.grad is None


def test_nothing_to_train_has_no_penalty() -> None:
    assert FedProx(torch.nn.Flatten(), MU).penalty().item() == 0.0


def test_torch_arrays_share_memory_and_load_back() -> None:
    module = torch.nn.BatchNorm1d(3)
    arrays = arrays_of(module.state_dict())
    with torch.no_grad():
        module.weight[1] = 9.0
    assert arrays["weight"][1] == 9.0
    assert arrays["num_batches_tracked"].dtype == np.int64
    other = torch.nn.BatchNorm1d(3)
    for a in arrays.values():
        a.flags.writeable = False
    load_into(other, arrays)
    assert other.weight.tolist() == [1.0, 9.0, 1.0]
    with torch.no_grad():
        other.weight[1] = 0.0
    assert arrays["weight"][1] == 9.0
