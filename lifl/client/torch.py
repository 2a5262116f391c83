"""torch tensors to arrays and back; the one importer of torch in the library.

Why: torch takes seconds to import and most of the platform does without it,
so this module is imported only when a client hands over torch objects. It must
not copy a tensor that lies in the processor's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lifl.update import BFLOAT16

Array = np.ndarray[Any, Any]


def arrays_of(state: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Return a ``state_dict`` as arrays that share its memory.

    Tensors on another device are copied to the processor's memory. bfloat16
    tensors become arrays of :data:`lifl.update.BFLOAT16`.
    """
    found = {}
    for name, tensor in state.items():
        here = tensor.detach().cpu()
        if here.dtype == torch.bfloat16:
            found[name] = here.contiguous().view(torch.int16).numpy().view(BFLOAT16)
        else:
            found[name] = here.numpy()
    return found


def load_into(module: torch.nn.Module, arrays: Mapping[str, Array]) -> None:
    """Copy arrays into a module's parameters and buffers; they are not changed.

    Raises
    ------
    RuntimeError
        torch's own, naming what is missing or of another shape.
    """
    module.load_state_dict(
        {
            name: torch.from_numpy(array if array.flags.writeable else array.copy())
            for name, array in arrays.items()
        }
    )


class FedProx:
    """The proximal term of FedProx for a module that is about to be trained.

    Made from a module that holds the global weights; ``penalty()`` is
    ``μ/2 · ‖w − w_global‖²`` over its trainable parameters, to be added to the
    loss before ``backward()`` (Li et al., MLSys 2020, equation 2)::

        near = FedProx(model, mu=0.01)
        (loss(model(x), y) + near.penalty()).backward()
    """

    def __init__(self, module: torch.nn.Module, mu: float) -> None:
        self.mu = mu
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._global = [p.detach().clone() for p in self._parameters]

    def penalty(self) -> torch.Tensor:
        """Return the term, a scalar that gradients flow through."""
        total = torch.zeros((), device=self._global[0].device if self._global else None)
        for p, g in zip(self._parameters, self._global, strict=True):
            total = total + (p - g).pow(2).sum()
        return 0.5 * self.mu * total
