"""Real training to a target accuracy, once, and what of it every side is then given to do.

Why: on a machine of two cores, training takes CPU from whoever sums beside it, and each side
from another at another moment. So clients train for real *once*, in processes of their own, as
many at a time as there are cores; the record keeps for each round who took part, the accuracy of
the mean on samples that nobody trained on, and the CPU seconds each client's training took, which
is how long it takes on a core of its own. Federated averaging of the same updates gives the
same model whoever does it, so a round's accuracy is the record's; what differs by side is when
its model is there. Each side then plays the record's rounds: as many clients as took part,
each sending after its own training time, an update of the true training. Sides check the mean
they make; LIFL also plays a round of *different* true updates, whose mean is compared with the
record's and judged on the held-out samples.

How many take part follows the day's swing (``arrivals.sizes``). Clients are ordered by
training time, and a smaller round is of the first of them.

Run as a program it trains and writes the record; see ``record``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing as mp
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.compare import arrivals
from bench.compare.api import Load
from bench.compare.workloads import Workload
from lifl.update import Schema, TensorSpec, iter_document, parse_header, views

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
TRUE_UPDATES = 8
"""So many of the last round's updates are kept, to be summed by LIFL."""
TRAIN_SECONDS = 1200.0

Arrays = dict[str, npt.NDArray[np.float32]]


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


class Learner(NamedTuple):
    """What a task does: ``initial()``, ``train(arrays, client, round) -> arrays``,
    ``samples(client)``, ``evaluate(arrays) -> (accuracy, loss)``.
    """

    initial: Callable[[], Arrays]
    train: Callable[[Arrays, int, int], Arrays]
    samples: Callable[[int], int]
    evaluate: Callable[[Arrays], tuple[float, float]]


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


def record(
    task: str, out: Path, *, leaf: Path | None = None, target: float | None = None
) -> Record:
    """Train in a process of its own, which takes its memory with it; return the record.

    ``out`` then has record.json, ``update-I.safetensors`` (true updates of the last round,
    with their numbers of samples in ``samples.json``) and ``mean.safetensors``, their mean.
    ``leaf`` is a LEAF file of FEMNIST for ``resnet18``, ``target`` replaces the task's.

    Raises
    ------
    RuntimeError
        if training failed, with what it said last.
    """
    command = [sys.executable, "-m", "bench.compare.training", task, "--out", str(out)]
    command += ["--leaf", str(leaf)] if leaf else []
    command += ["--target", str(target)] if target else []
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TRAIN_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"training {task} failed:\n{done.stderr[-2000:]}")
    return read(out)


def true_updates(path: Path) -> tuple[list[bytes], list[int], bytes]:
    """Return a record's true updates, their numbers of samples, and their mean."""
    samples = json.loads((path / "samples.json").read_text())
    documents = [(path / f"update-{i}.safetensors").read_bytes() for i in range(len(samples))]
    return documents, samples, (path / "mean.safetensors").read_bytes()


def same(found: bytes, expected: bytes) -> float:
    """Return the greatest difference between two models, relative to the greatest weight.

    Both are safetensors documents with the same tensors.
    """
    a, b = arrays_of(found), arrays_of(expected)
    if a.keys() != b.keys():
        raise RuntimeError(f"the model has other tensors: {sorted(a.keys() ^ b.keys())[:4]}")
    greatest = max(float(np.abs(v).max()) for v in b.values())
    return max(float(np.abs(a[k] - b[k]).max()) for k in b) / greatest


def arrays_of(document: bytes) -> Arrays:
    """Return a document's tensors by name."""
    found: Arrays = dict(views(document, parse_header(document, len(document))))
    return found


def document_of(arrays: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Return the safetensors document of float32 ``arrays``."""
    schema = Schema(TensorSpec(name, "F32", a.shape) for name, a in arrays.items())
    return b"".join(iter_document(arrays, schema))


def average(updates: Sequence[Arrays], samples: Sequence[int]) -> Arrays:
    """Return the mean, weighted by ``samples``, summed in float64."""
    total = sum(samples)
    return {
        name: (
            sum(u[name].astype(np.float64) * n for u, n in zip(updates, samples, strict=True))
            / total
        ).astype(np.float32)
        for name in updates[0]
    }


# -- the training itself, in a process of its own ---------------------------------


def train(
    task: Task, learner: Learner, out: Path, data: str, *, workers: int, seed: int = 8
) -> Record:
    """Train to the target, or all rounds; write the record and the last round's updates."""
    sizes = arrivals.sizes(task.rounds, task.clients, days=task.days)
    model = learner.initial()
    order = sorted(range(task.clients), key=lambda c: (learner.samples(c), c))
    rounds: list[dict[str, Any]] = []
    with _trainers(workers, learner) as trainers:
        for number, size in enumerate(sizes, start=1):
            who = order[:size]
            began = time.monotonic()
            total, kept, seconds = _round(trainers, model, who, number)
            weight = sum(learner.samples(c) for c in who)
            model = {k: (v / weight).astype(np.float32) for k, v in total.items()}
            accuracy, loss = learner.evaluate(model)
            rounds.append(
                {
                    "clients": size,
                    "accuracy": accuracy,
                    "loss": loss,
                    "seconds": seconds,
                    "wall": time.monotonic() - began,
                }
            )
            print(f"round {number}: {size} clients, accuracy {accuracy:.4f}", flush=True)
            if accuracy >= task.target:
                break
    samples = [learner.samples(c) for c in order[: len(kept)]]
    for i, update in enumerate(kept):
        (out / f"update-{i}.safetensors").write_bytes(document_of(update))
    (out / "samples.json").write_text(json.dumps(samples))
    (out / "mean.safetensors").write_bytes(document_of(average(kept, samples)))
    found = Record(task, rounds, data)
    (out / "record.json").write_text(json.dumps(found.to_json(), indent=1) + "\n")
    return found


def _round(
    trainers: Sequence[Connection], model: Arrays, who: Sequence[int], number: int
) -> tuple[dict[str, npt.NDArray[np.float64]], list[Arrays], list[float]]:
    """Have clients train, as many at a time as there are processes.

    Returns Σ of samples × update in float64, the first updates, and each one's CPU seconds.
    """
    total = {k: np.zeros(v.shape, np.float64) for k, v in model.items()}
    kept: dict[int, Arrays] = {}
    seconds = [0.0] * len(who)
    waiting = list(enumerate(who))[::-1]
    busy: dict[Connection, int] = {}
    for pipe in trainers:
        if waiting:
            busy[pipe] = _give(pipe, waiting, model, number)
    while busy:
        for ready in mp.connection.wait(list(busy)):
            assert isinstance(ready, Connection)
            at = busy.pop(ready)
            update, samples, seconds[at] = ready.recv()
            for name, array in update.items():
                total[name] += array.astype(np.float64) * samples
            if at < TRUE_UPDATES:
                kept[at] = update
            if waiting:
                busy[ready] = _give(ready, waiting, model, number)
    return total, [kept[i] for i in sorted(kept)], seconds


def _give(pipe: Connection, waiting: list[tuple[int, int]], model: Arrays, number: int) -> int:
    at, client = waiting.pop()
    pipe.send((model, client, number))
    return at


@contextmanager
def _trainers(number: int, learner: Learner) -> Iterator[list[Connection]]:
    """Run processes that train when told; a client is one of their turns."""
    context = mp.get_context("fork")
    pipes, processes = [], []
    try:
        for _ in range(number):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, learner), daemon=True)
            process.start()
            theirs.close()
            pipes.append(mine)
            processes.append(process)
        yield pipes
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            process.terminate()
            process.join()
            pipe.close()


def _serve(pipe: Connection, learner: Learner) -> None:
    while True:
        model, client, number = pipe.recv()
        before = time.process_time()
        update = learner.train(model, client, number)
        pipe.send((update, learner.samples(client), time.process_time() - before))


def main() -> int:
    """Train one task; see ``record``."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare.training", description=__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--out", type=Path, required=True, help="a directory for the record")
    parser.add_argument("--leaf", type=Path, help="a LEAF file of FEMNIST, for resnet18")
    parser.add_argument("--target", type=float, help="the accuracy to train to")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    learners = importlib.import_module("bench.compare.learners")
    task = TASKS[args.task]
    task = task._replace(target=args.target or task.target)
    learner, data = learners.learner(task, args.leaf)
    workers = len(os.sched_getaffinity(0))
    found = train(task, learner, args.out, data, workers=workers)
    print(f"{found.reached} rounds" if found.reached else "the target was not reached")
    return 0


if __name__ == "__main__":
    sys.exit(main())
