"""One client of the digits job: trains on its own part of the data, round by round.

::

    python examples/digits/client.py --client c3 --gateway http://127.0.0.1:8080 --job digits

The number in the client's name says which part is its own. The job's
``clientConfig`` says how to split and train, see job.yaml.
"""

from __future__ import annotations

import argparse
import logging
import os
import re

import model as digits
from data import Samples, client_samples
from torch import nn

from lifl.client import FederatedClient, Round
from lifl.client.torch import FedProx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--client", required=True, help="this client's name, with a number: c3")
    parser.add_argument("--gateway", default="http://127.0.0.1:8080", help="a gateway's URL")
    parser.add_argument("--job", default="digits", help="the job's name")
    parser.add_argument(
        "--token", default=os.environ.get("LIFL_TOKEN"), help="bearer token (default: $LIFL_TOKEN)"
    )
    parser.add_argument(
        "--ingress",
        default=os.environ.get("LIFL_INGRESS", ""),
        metavar="HOST:PORT",
        help="connect here, whatever the gateway's name is (default: $LIFL_INGRESS)",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format=f"{args.client}: %(message)s")
    found = re.search(r"\d+", args.client)
    if found is None:
        parser.error(f"--client {args.client} has no number in it")
    number = int(found.group())

    model = digits.build()
    samples: Samples | None = None
    with FederatedClient(
        args.gateway, job=args.job, client=args.client, token=args.token, ingress=args.ingress
    ) as fl:
        for round in fl.rounds():
            samples = samples or own_samples(number, round)
            round.load_into(model)
            loss = train(model, samples, number, round)
            receipt = round.submit(
                model.state_dict(), num_samples=len(samples), metrics={"loss": loss}
            )
            what = "accepted" if receipt.accepted else receipt.code
            print(f"{args.client}: round {round.number}, loss {loss:.4f}, {what}", flush=True)
    print(f"{args.client}: job {fl.state}", flush=True)


def own_samples(number: int, round: Round) -> Samples:
    config = round.config
    clients = int(config["clients"])
    return client_samples(
        (number - 1) % clients, clients, float(config["alpha"]), int(config["seed"])
    )


def train(model: nn.Module, samples: Samples, number: int, round: Round) -> float:
    config = round.config
    mu = float(config.get("mu", 0.0))
    return digits.train(
        model,
        samples,
        epochs=int(config["localEpochs"]),
        batch_size=int(config["batchSize"]),
        learning_rate=float(config["learningRate"]),
        seed=1000 * round.number + number,
        penalty=FedProx(model, mu).penalty if mu else None,
    )


if __name__ == "__main__":
    main()
