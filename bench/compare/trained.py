"""What is known of a training, and what of it every side is given to do.

Why: on a machine of two cores, training takes CPU from whoever sums beside it, and each side
from another at another moment. So clients train for real *once* (``training``), and a record keeps
for each round who took part, the accuracy of the mean on samples that nobody trained on, and the
CPU seconds each client's training took, which is how long it takes on a core of its own. Federated
averaging of the same updates gives the same model whoever does it, so a round's accuracy is the
record's; what differs by side is when its model is there. Each side then plays the record's rounds:
as many clients as took part, each sending after its own training time, an update of the true
training. Sides check the mean they make, and also play a round of *different* true updates, whose
mean is compared with the record's. It must not train.

How many take part follows the day's swing (``arrivals.sizes``). Clients are ordered by
training time, and a smaller round is of the first of them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.compare.api import Load
from bench.compare.workloads import Workload


class Task(NamedTuple):
    """A training: its model and data, who takes part, and when it is done.

    ``clients`` are there at noon; ``rounds`` at most are played, spread over ``days``.
    """

    name: str
    title: str
    model: str
    clients: int
    rounds: int
    days: float
    target: float


TASKS = {
    "digits": Task("digits", "digits, small CNN", "digits", 10, 20, 2.0, 0.95),
    "resnet18": Task(
        "resnet18", "ResNet-18 on pictures of FEMNIST's shape", "45mb", 40, 24, 2.0, 0.80
    ),
}


@dataclass(frozen=True, slots=True)
class Record:
    """A training as it went: ``rounds`` are dicts of clients, accuracy, loss, seconds."""

    task: Task
    rounds: Sequence[Mapping[str, Any]]
    data: str

    @property
    def reached(self) -> int | None:
        """Return how many rounds it took to the target; None if it was not reached."""
        for i, row in enumerate(self.rounds, start=1):
            if row["accuracy"] >= self.task.target:
                return i
        return None

    def arrivals(self) -> tuple[float, ...]:
        """Return each client's median training time in seconds, ascending."""
        by_client: dict[int, list[float]] = {}
        for row in self.rounds:
            for client, seconds in enumerate(row["seconds"]):
                by_client.setdefault(client, []).append(seconds)
        return tuple(sorted(statistics.median(s) for s in by_client.values()))

    def load(self) -> Load:
        """Return the load that sides play: the record's rounds up to the target."""
        sizes = tuple(int(row["clients"]) for row in self.rounds[: self.reached])
        times = self.arrivals()[: max(sizes)]
        return Load(f"train-{self.task.name}", self.task.model, len(times), times, sizes)

    def workload(self, sides: tuple[str, ...], warm: int = 1) -> Workload:
        """Return how sides play it: every round once, each size ``warm`` times before."""
        load = self.load()
        return Workload(
            load,
            sides,
            f"after its own training, {load.arrivals[0]:.2f} to {load.arrivals[-1]:.2f} s; "
            f"{min(load.sizes)} to {max(load.sizes)} clients a round along a day",
            f"training to {self.task.target:.0%}: {self.task.title}",
            rounds=len(load.sizes),
            warm=warm,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``record.json`` holds."""
        return {
            "task": self.task._asdict(),
            "data": self.data,
            "reached": self.reached,
            "rounds": list(self.rounds),
        }


def read(path: Path) -> Record:
    """Return the record in a directory that ``record`` has filled."""
    raw = json.loads((path / "record.json").read_text())
    return Record(Task(**raw["task"]), raw["rounds"], raw["data"])


def true_updates(path: Path) -> tuple[list[bytes], list[int], bytes]:
    """Return a record's true updates, their numbers of samples, and their mean."""
    samples = json.loads((path / "samples.json").read_text())
    documents = [(path / f"update-{i}.safetensors").read_bytes() for i in range(len(samples))]
    return documents, samples, (path / "mean.safetensors").read_bytes()
