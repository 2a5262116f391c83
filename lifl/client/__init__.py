"""The FL client SDK: take part in a job with a torch ``state_dict`` or numpy arrays.

Why: a client has five lines of federated learning to write, and everything
that can go wrong between it and the gateway is handled here. It must not
import torch unless it is handed torch objects, and never copies an array that
can be sent as it is.

::

    from lifl.client import FederatedClient

    with FederatedClient("http://127.0.0.1:8080", job="digits", client="c1", token=t) as fl:
        for round in fl.rounds():
            round.load_into(model)
            n = train(model)
            round.submit(model.state_dict(), num_samples=n)
"""

from __future__ import annotations

from lifl.client.federated import FederatedClient
from lifl.client.fedprox import proximal_gradient, proximal_loss
from lifl.client.http import HttpClient, HttpError
from lifl.client.retry import Backoff, Retry
from lifl.client.round import Receipt, Round

__all__ = [
    "Backoff",
    "FederatedClient",
    "HttpClient",
    "HttpError",
    "Receipt",
    "Retry",
    "Round",
    "proximal_gradient",
    "proximal_loss",
]
