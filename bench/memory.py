"""The most memory of a round: 8 clients with 233 MB each, then 200 clients within the pool.

Counted in models: slots in use at once (the pool's own high-water mark) plus
anonymous memory that the platform's processes grew by over the idle platform,
sampled every 10 ms. Of 200 small models only the slots are counted, against those
that the pool has: what the aggregators' processes weigh by themselves, noted in
MB, is no matter of models. Clients retry on 503 as the SDK does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from bench import driver, harness
from bench.clients import Clients, Sent
from bench.figures import Figure, at_most
from bench.rounds import tree
from bench.sizes import BYTES
from lifl.topology import Plan

CLIENTS = 8
MANY = 200
ROUNDS = 7
SAMPLE_SECONDS = 0.01
AT_ONCE = 16


def run() -> list[Figure]:
    """Return ``round_peak_models``, and the same with 200 clients."""
    document = harness.model_document(BYTES["233mb"])
    with harness.platform() as platform:
        idle = platform.private_bytes()
        few = _figure(platform, "round_peak_models", document, idle, clients=CLIENTS, slots=None)
        many = _figure(
            platform,
            "round_peak_models_200",
            harness.model_document(1 << 22),
            idle,
            clients=MANY,
            slots=40,
        )
    return [few, many]


def _figure(
    platform: harness.Platform,
    key: str,
    document: bytes,
    idle: int,
    *,
    clients: int,
    slots: int | None,
) -> Figure:
    name = key.replace("_", "-")
    job = driver.Job(platform, name, document, clients=clients, fan_in=2, slots=slots)
    peaks, plan = [], None
    try:
        with Clients(min(clients, AT_ONCE), document) as senders:
            current = job.ready()
            plan = Plan.from_json(job.view()["plan"])
            for _ in range(ROUNDS):
                with _Sampler(platform) as sampler:
                    _post_all(job, senders, job.requests(current))
                    job.wait_for_version(current["version"] + 1)
                usage = platform.admin().pools()[name]
                grown = max(0, sampler.peak - idle)
                few = grown / len(document) if clients == CLIENTS else 0
                peaks.append(usage.peak_in_use + few)
                current = job.ready(after=current["round"])
    finally:
        job.stop()
    geometry = job.status()["geometry"]
    bar = clients + len(plan.roles) + 2 if clients == CLIENTS else geometry["slots"]
    return Figure(
        key,
        "models",
        peaks,
        at_most(bar),
        {
            "pool_slots": geometry["slots"],
            "peak_slots": usage.peak_in_use,
            "grown_private_mb": round(grown / 1e6),
            "idle_private_mb": round(idle / 1e6),
            "aggregators": len(plan.roles),
            "tree": tree(plan),
        },
    )


def _post_all(
    job: driver.Job, senders: Clients, requests: Iterable[tuple[str, int, bytes]]
) -> None:
    """Post every update, a few at a time; a 503 is tried again after its Retry-After."""
    waiting = list(requests)
    while waiting:
        batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
        senders.start(batch)
        answers = senders.wait()
        busy = [r for r, a in zip(batch, answers, strict=True) if a.status == 503]
        job.check([a for a in answers if a.status != 503])
        waiting += busy
        if busy:
            time.sleep(max(_retry_after(a) for a in answers if a.status == 503))


def _retry_after(answer: Sent) -> float:
    for line in answer.answer.split(b"\r\n"):
        if line.lower().startswith(b"retry-after:"):
            return float(line.split(b":")[1])
    return 1.0


class _Sampler:
    """The highest anonymous memory of a platform's processes while it runs."""

    def __init__(self, platform: harness.Platform) -> None:
        self.peak = 0
        self._platform = platform
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._platform.private_bytes())
