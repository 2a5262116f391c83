"""Judge the global model on held-out digits and report it to the platform.

::

    python examples/digits/evaluate.py --gateway http://127.0.0.1:8080 --job digits --follow

Judges the present version; with --follow also every later one until the job
is over. The token is the submitter's. The platform keeps the scores in the
job's history.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import model as digits
from data import held_out_samples

from lifl.client import FederatedClient, HttpClient, Retry
from lifl.client.torch import load_into

OVER = {"done", "stopped", "failed"}
PAUSE_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gateway", default="http://127.0.0.1:8080", help="a gateway's URL")
    parser.add_argument("--job", default="digits", help="the job's name")
    parser.add_argument("--follow", action="store_true", help="judge later versions too")
    parser.add_argument(
        "--token",
        default=os.environ.get("LIFL_TOKEN"),
        help="the submitter's bearer token (default: $LIFL_TOKEN)",
    )
    parser.add_argument(
        "--ingress",
        default=os.environ.get("LIFL_INGRESS", ""),
        metavar="HOST:PORT",
        help="connect here, whatever the gateway's name is (default: $LIFL_INGRESS)",
    )
    args = parser.parse_args()

    retry = Retry()
    http = HttpClient(args.gateway, args.token, ingress=args.ingress)
    path = f"/v1/jobs/{args.job}"
    status = retry.run(lambda: http.json("GET", path))
    job_file = status["spec"]
    samples = held_out_samples(int(job_file["spec"]["clientConfig"]["seed"]))
    net = digits.build()
    with FederatedClient(
        args.gateway,
        job=args.job,
        client="evaluator",
        token=args.token,
        retry=retry,
        ingress=args.ingress,
    ) as fl:
        for version, arrays in versions(fl, http, path, retry, args.follow):
            load_into(net, arrays)
            accuracy, loss = digits.evaluate(net, samples)
            print(f"version {version}: accuracy {accuracy:.4f}, loss {loss:.4f}", flush=True)
            if version > 0:  # the history begins with the first version that clients made
                score = {"version": version, "accuracy": accuracy, "loss": loss}
                retry.run(partial(http.json, "POST", f"{path}/evaluations", score))
    http.close()


def versions(
    fl: FederatedClient, http: HttpClient, path: str, retry: Retry, follow: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each model version once; with ``follow`` until the job is over."""
    seen = -1
    over = not follow
    while True:
        version, arrays = fl.latest()
        if version != seen:
            seen = version
            yield version, arrays
        elif over:
            return
        else:
            status = retry.run(lambda: http.json("GET", path))
            over = status["state"] in OVER
            if not over:
                time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
