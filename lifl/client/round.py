"""One round as a client sees it: the task, the model, and what became of the update.

Why: this is what a user's training loop holds; it carries values and hands
the work to :class:`lifl.client.federated.FederatedClient`. It must not do I/O
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lifl.client.download import Model

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]
State = Mapping[str, "Array | torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Task:
    """The gateway's answer to "what is my work?"."""

    round: int
    version: int
    state: str
    selected: bool
    model_url: str
    upload_url: str
    deadline_seconds: float | None
    your_update: str
    update_type: str
    client_config: Mapping[str, Any]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Task:
        """Read the answer of ``GET /v1/jobs/{job}/rounds/current``."""
        return cls(**{name: raw[name] for name in cls.__slots__})

    @property
    def is_over(self) -> bool:
        """Return whether the job has ended."""
        return self.state in {"done", "stopped"}


class Receipt(NamedTuple):
    """What became of an update.

    ``accepted``: it counts, exactly once. ``duplicate``: it had been accepted
    before (an answer was lost on the way). Not accepted means the gateway said
    why with ``code`` (``round-closed``, ``wrong-round``, ``not-selected``,
    ``duplicate-differs``) and ``detail``; the next round is all that is left.
    """

    accepted: bool
    duplicate: bool = False
    serial: int | None = None
    code: str = ""
    detail: str = ""


class About(NamedTuple):
    """What a client says about its update."""

    num_samples: int
    metrics: Mapping[str, Any] | None
    is_delta: bool


Submit = Callable[[State, About], Receipt]


@dataclass(frozen=True)
class Round:
    """One round this client was chosen for."""

    number: int
    version: int
    """The version of the global model to start from."""
    config: Mapping[str, Any]
    """The job's ``clientConfig``."""
    deadline_seconds: float | None
    """Seconds from now until the round closes, as of the poll; None: no deadline."""
    update_type: str
    """What the job sums: ``"weights"`` or ``"delta"``."""
    _model: Model = field(repr=False)
    _submit: Submit = field(repr=False)

    def model(self) -> dict[str, Array]:
        """Return the global model: float32 and integer arrays by name, read-only, no copy.

        Keep them as long as you like; copy what you want to change.
        """
        return self._model.read_only()

    def load_into(self, module: torch.nn.Module) -> None:
        """Copy the global model into a torch module's parameters and buffers."""
        from lifl.client.torch import load_into

        load_into(module, self._model.arrays)

    def submit(
        self,
        state: State,
        *,
        num_samples: int,
        metrics: Mapping[str, Any] | None = None,
        is_delta: bool = False,
    ) -> Receipt:
        """Send an update: a torch ``state_dict`` or a dict of numpy arrays.

        ``state`` holds every tensor of the model: float32, float16 or bfloat16
        (float64 is sent as float32), and integer buffers as they are: of those
        the elementwise maximum over all clients becomes the next version's.
        Arrays are sent from where they lie; if the node that took them is lost
        they are sent again, so leave them unchanged until the next round (if
        you do change them, this round is offered to you again instead).

        Give weights also in a job that sums deltas: the difference to the
        global model is taken here, unless ``is_delta`` says that it has been.

        Raises
        ------
        UpdateError
            before anything is sent, if ``state`` is not like the model or
            ``num_samples`` or ``metrics`` are unusable.
        HttpError
            if the gateway refused the update for good (401, 403, 413, 422).
        Unavailable
            if no gateway answered for longer than the client's patience.
        """
        return self._submit(state, About(num_samples, metrics, is_delta))
