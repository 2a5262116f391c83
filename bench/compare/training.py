"""Real training to a target accuracy: client processes, as many at a time as there are cores.

Why: the record that all sides play (``trained``) has to come from somewhere, once. Whoever runs the
comparison asks ``record``, which has this module run as a program, so that torch and its memory end
with it. It must not know sides.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing as mp
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.compare import arrivals
from bench.compare.models import Arrays, average, document_of
from bench.compare.trained import TASKS, Record, Task, read

TRUE_UPDATES = 8
"""So many of the last round's updates are kept, to be summed by sides."""
TRAIN_SECONDS = 1200.0


class Learner(NamedTuple):
    """What a task does: ``initial()``, ``train(arrays, client, round) -> arrays``,
    ``samples(client)``, ``evaluate(arrays) -> (accuracy, loss)``.
    """

    initial: Callable[[], Arrays]
    train: Callable[[Arrays, int, int], Arrays]
    samples: Callable[[int], int]
    evaluate: Callable[[Arrays], tuple[float, float]]


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
