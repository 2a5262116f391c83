"""`lifl calibrate`: how many updates a node can have in service at once.

Why: placement packs updates on nodes up to a capacity MC that should be measured where it
counts, not typed in. More and more clients upload at a client's speed; while the node keeps
up, twice the clients bring twice the updates. Where they no longer do, the node is full:
``MC = k'·E'`` there, the arrival rate times the time of one update, which by Little's law is
the number of updates in service. It must not know what
the controller does with it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from lifl import naming
from lifl.auth import mint_client_token
from lifl.cli import output
from lifl.cli.access import Access, with_access
from lifl.cli.jobs import submit_job
from lifl.client.http import HttpClient, HttpError, raise_for_status
from lifl.errors import LiflError, Unavailable
from lifl.update import Schema, TensorSpec, iter_document

PIECE = 256 << 10
GAIN = 1.1
"""Twice the clients must bring a tenth more, or the node is full."""
NEARLY = 0.9
"""The fewest clients that reach this part of the best rate are the capacity."""
CLIENTS = 10_000
OPEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What ``clients`` at once brought: updates a second, and seconds each took."""

    clients: int
    rate: float
    seconds: float

    @property
    def in_service(self) -> float:
        """Return ``k·E``, in updates."""
        return self.rate * self.seconds


def goes_on(loads: Sequence[Load]) -> bool:
    """Say whether more clients are worth a try: the last doubling still brought more."""
    return len(loads) < 2 or loads[-1].rate > GAIN * max(step.rate for step in loads[:-1])


def capacity(loads: Sequence[Load]) -> Load:
    """Return the least load whose rate is nearly the best: there the node is full.

    Raises
    ------
    ValueError
        if nothing was measured.
    """
    best = max(step.rate for step in loads)
    return next(step for step in loads if step.rate >= NEARLY * best)


@click.command()
@click.option("--size", type=click.FloatRange(0.1, 4000), default=45.0, show_default=True)
@click.option(
    "--client-rate",
    type=click.FloatRange(0.1),
    default=50.0,
    show_default=True,
    help="MB/s at which one client uploads.",
)
@click.option("--seconds", type=click.FloatRange(1.0), default=5.0, show_default=True)
@click.option("--most", type=click.IntRange(1, 1024), default=128, show_default=True)
@click.option("--slots", type=click.IntRange(8, 65535), default=64, show_default=True)
@output.json_option
@with_access
def calibrate(
    access: Access,
    *,
    size: float,
    client_rate: float,
    seconds: float,
    most: int,
    slots: int,
    as_json: bool,
) -> None:
    """Measure a node's capacity in updates of SIZE MB; use it as LIFL_NODE_CAPACITY.

    Runs a job of its own on the gateway's node, which should have nothing else to do, and
    deletes it. The clients run here: on the node itself they take part of its processors.
    """

    def say(text: str) -> None:
        if not as_json:
            output.console.print(text, highlight=False)

    job = f"calibrate-{secrets.token_hex(3)}"
    document = _document(int(size * 1e6))
    submit_job(access, _job_file(job, slots), document)
    try:
        uploads = Uploads(access, job, document, client_rate * 1e6)
        uploads.await_round()
        loads: list[Load] = []
        while goes_on(loads) and (not loads or 2 * loads[-1].clients <= most):
            loads.append(uploads.measure(2 ** len(loads), seconds))
            step = loads[-1]
            say(f"{step.clients:4} clients: {step.rate:7.1f} updates/s, {step.seconds:6.3f} s each")
    finally:
        access.client(job).json("POST", f"/v1/jobs/{job}/stop")
        access.client(job).json("DELETE", f"/v1/jobs/{job}")
    full = capacity(loads)
    if as_json:
        rows = [{"clients": s.clients, "rate": s.rate, "seconds": s.seconds} for s in loads]
        output.emit_json({"capacity": full.in_service, "rate": full.rate, "loads": rows})
        return
    say(
        f"capacity {full.in_service:.1f} updates of {size:g} MB in service at once "
        f"({full.rate:.1f} a second, {full.seconds:.3f} s each)"
    )
    if goes_on(loads):
        say(f"the node was not full yet with {loads[-1].clients} clients: try a higher --most")


class Uploads:
    """Clients of one job that upload ready-made updates, each once, at ``rate`` bytes/s."""

    def __init__(self, access: Access, job: str, document: bytes, rate: float) -> None:
        self._access = access
        self._job = job
        self._key = access.key(job)
        self._document = memoryview(document)
        self._rate = rate
        self._number = 0
        self._lock = threading.Lock()
        self._path = ""

    def await_round(self) -> None:
        """Wait for the job's round to open."""
        client, token = self._newcomer()
        http = self._access.as_client(token)
        deadline = time.monotonic() + OPEN_SECONDS
        path = f"/v1/jobs/{self._job}/rounds/current?client={client}&wait=1"
        while time.monotonic() < deadline:
            try:
                task = http.json("GET", path, timeout=30.0)
            except HttpError as e:
                if e.status != 404:  # the gateway has not heard of the job yet
                    raise
                time.sleep(0.1)
                continue
            if task["state"] == "open":
                self._path = f"/v1/jobs/{self._job}/rounds/{task['round']}/updates"
                http.close()
                return
        raise Unavailable(f"no round of {self._job} opened within {OPEN_SECONDS:.0f} s")

    def measure(self, clients: int, seconds: float) -> Load:
        """Return what so many clients at once bring in ``seconds``, one upload on the other."""
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(clients) as pool:
            work = [pool.submit(self._upload_until, end) for _ in range(clients)]
            took = [t for w in work for t in w.result()]
        last = max(done for _, done in took)
        first = min(began for began, _ in took)
        each = sum(done - began for began, done in took) / len(took)
        return Load(clients, len(took) / (last - first), each)

    def _upload_until(self, end: float) -> list[tuple[float, float]]:
        took: list[tuple[float, float]] = []
        while not took or time.monotonic() < end:
            client, token = self._newcomer()
            http = self._access.as_client(token)
            began = time.monotonic()
            self._upload(http, client)
            took.append((began, time.monotonic()))
            http.close()
        return took

    def _upload(self, http: HttpClient, client: str) -> None:
        headers = {
            naming.HEADER_CLIENT: client,
            naming.HEADER_NUM_SAMPLES: "1",
            "Content-Type": naming.MEDIA_SAFETENSORS,
            "Content-Length": str(len(self._document)),
        }
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                answer = http.request(
                    "POST", self._path, body=self._paced(), headers=headers, timeout=OPEN_SECONDS
                )
                raise_for_status(answer)
                return
            except Unavailable as e:
                if time.monotonic() > deadline:
                    raise
                time.sleep(e.retry_after)

    def _paced(self) -> Iterator[memoryview]:
        """Yield the document in pieces, no faster than a client's line carries them."""
        due = time.monotonic()
        for at in range(0, len(self._document), PIECE):
            piece = self._document[at : at + PIECE]
            yield piece
            due += len(piece) / self._rate
            ahead = due - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)

    def _newcomer(self) -> tuple[str, str]:
        with self._lock:
            self._number += 1
            name = f"c{self._number}"
        if self._number > CLIENTS:
            raise LiflError(f"more than {CLIENTS} uploads: use fewer --seconds")
        return name, mint_client_token(self._key, self._job, name)


def _document(nbytes: int) -> bytes:
    elements = max(1, nbytes // 4)
    schema = Schema([TensorSpec("weight", "F32", (elements,))])
    return b"".join(iter_document({"weight": np.zeros(elements, np.float32)}, schema))


def _job_file(name: str, slots: int) -> dict[str, Any]:
    return {
        "apiVersion": "lifl.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": {
            "rounds": 1,
            "model": {"path": "model.safetensors"},
            "clients": {"perRound": CLIENTS, "minimum": 1, "selection": "all"},
            "deadlineSeconds": 3600,
            "pool": {"slots": slots},
        },
    }
