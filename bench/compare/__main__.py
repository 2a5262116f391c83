"""`python -m bench.compare`: LIFL beside an always-on server, vanilla serverless, and its peers.

Plays the same updates, at the same moments, to every side in turn and writes into ``--out``:
``index.html`` (open this), ``report.md``, ``summary.json`` (the bars) and ``rounds.json`` (every
round). Exit status 1 if a bar is missed, 2 if something could not be measured.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import psutil
from rich.console import Console

from bench.compare import arrivals, auditing, models, report, shapes, trained, training, workloads
from bench.compare.api import Load
from bench.compare.budget import FULL_SECONDS, PARTS, QUICK_SECONDS, REFERENCES, Budget, expected
from bench.compare.groups import open_group
from bench.compare.machine import copying_speed, machine
from bench.compare.progress import Shown
from bench.compare.runner import Runner
from bench.compare.sides import makers
from bench.compare.summary import ROUND, handoffs
from bench.compare.workloads import PEERS, TRIO, Workload
from lifl.errors import LiflError

QUICK_HANDOFFS, QUICK_WARM = 4, 3
"""As many warm-ups as in full: Redis' first hops go into new memory and take twice as long."""
QUICK_TARGET = 0.80
"""Accuracy of the quick run's training: four rounds instead of seven."""
QUICK_AUDITED = 4
"""Clients of the quick run's audit, of one round: counts are told an update and a hop."""
EXACT = 1e-5
"""How far a mean of true updates may be off, relative to its greatest weight: float32 sums in
another order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit status."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    against = report.load(args.against) if args.against else None
    signal.signal(signal.SIGTERM, _ended)
    console = Console()
    about = {
        "quick": args.quick,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
    }
    with Shown(console) as shown:
        run = _Run(args, Runner(args.out, makers(), open_group, shown, about=about), shown)
        run.play()
    summary = report.write(run.runner.to_json(), args.out, trainings=run.trainings, against=against)
    _tell(console, summary, args.out)
    if run.runner.failed() or run.failed:
        return 2
    return int(any(f["passed"] is False for f in summary.values()))


def _ended(*_: Any) -> None:
    """End as with Ctrl-C, so that whatever was started is ended too."""
    raise KeyboardInterrupt


class _Run:
    """One run: workloads, trainings and what else there is."""

    def __init__(self, args: argparse.Namespace, runner: Runner, shown: Shown) -> None:
        self.runner = runner
        self.trainings: dict[str, Mapping[str, Any]] = {}
        self.failed = False
        self._args = args
        self._shown = shown
        self._lost: dict[str, str] = runner.others.setdefault("lost", {})
        limit = args.max_seconds or (QUICK_SECONDS if args.quick else FULL_SECONDS)
        self._budget = Budget(limit)
        runner.others["parts"] = self._budget.parts

    def play(self) -> None:
        """Run everything that was asked for; what fails is noted and costs the rest nothing.

        What bars speak of comes first, so that it is the rest that a slow machine leaves out. The
        hand-off is not the first of all: memory that nobody had yet is slow to get for a broker.
        """
        first, *others = workloads.quick() if self._args.quick else workloads.full()
        self._workload(first, besides=REFERENCES)
        for task in ("digits",) if self._args.quick else ("resnet18", "digits"):
            self._part(f"train-{task}", functools.partial(self._train, task))
        if self._args.quick:
            self._lost["train-resnet18"] = "it is part of the full run"
        self._part("handoff", self._handoff)
        self._part("audit", self._audit)
        for workload in others:
            self._workload(workload)
        self._part("sim", self._sim)
        self.runner.write()

    def _workload(self, workload: Workload, besides: float = 0.0) -> None:
        asked = self._for_sides(workload)
        seconds = besides + expected(asked, psutil.virtual_memory().available)
        self._timed(workload.name, seconds, lambda: self.runner.run(asked))

    def _part(self, name: str, do: Callable[[], None]) -> None:
        self._timed(name, PARTS[name][not self._args.quick], lambda: self._try(name, do))

    def _timed(self, name: str, seconds: float, do: Callable[[], object]) -> None:
        """Do a part if it was asked for and there is time; note what it took."""
        why = self._budget.refusal(seconds) if self._wanted(name) else "it was not asked for"
        if why:
            self._lost[name] = why
            if self._wanted(name):
                self._shown.lost(name, why)
            return
        speed, began = copying_speed(), time.monotonic()
        do()
        self._budget.took(name, seconds, time.monotonic() - began, copying=speed)

    def _wanted(self, name: str) -> bool:
        return not self._args.workloads or any(name.startswith(w) for w in self._args.workloads)

    def _for_sides(self, workload: Workload) -> Workload:
        """Return the workload with the sides that were asked for."""
        wanted = self._args.systems
        if not wanted:
            return workload
        sides = tuple(
            s for s in workload.sides if s in wanted or (s.startswith("step-") and "lifl" in wanted)
        )
        return replace(workload, sides=sides)

    def _try(self, name: str, do: Callable[[], None]) -> None:
        self._shown.say(name)
        try:
            do()
        except Exception as e:
            why = f"{type(e).__name__}: {e}"
            self._lost[name] = why
            self.failed = True
            self._shown.lost(name, why)
        self.runner.write()

    def _train(self, task: str) -> None:
        with tempfile.TemporaryDirectory(prefix="lifl-train-") as directory:
            path = Path(directory)
            target = QUICK_TARGET if self._args.quick else None
            record = training.record(task, path, leaf=self._args.leaf, target=target)
            self.trainings[task] = record.to_json()
            self.runner.others.setdefault("trainings", {})[task] = record.to_json()
            documents, samples, mean = trained.true_updates(path)
        if record.reached is None:
            raise RuntimeError(f"{record.task.title}: {record.task.target:.0%} was not reached")
        warm = 0 if self._args.quick else 1
        self.runner.run(self._for_sides(record.workload(TRIO, warm)), documents[0])
        self._check_true(record, documents, samples, mean)

    def _check_true(
        self,
        record: trained.Record,
        documents: Sequence[bytes],
        samples: Sequence[int],
        mean: bytes,
    ) -> None:
        """Have sides sum different, true updates, and compare their mean with the record's."""
        number = len(documents)
        load = record.load()
        load = replace(load, sizes=(), clients=number, arrivals=load.arrivals[:number])
        found = self.runner.others.setdefault("true_means", {})[record.task.name] = {}
        checked = TRIO[:1] if self._args.quick else TRIO
        for name in self._for_sides(record.workload(checked)).sides:
            with open_group("true-updates") as group:
                system = makers()[name](load, group, documents[0])
                with system:
                    _, model = system.play_true(documents, samples)
            found[name] = models.same(model, mean)
            if found[name] > EXACT:
                off = f"{found[name]:.2g}"
                raise RuntimeError(f"{name}'s mean of {number} true updates is off by {off}")

    def _handoff(self) -> None:
        module = importlib.import_module("bench.compare.handoff")
        n, warm = (QUICK_HANDOFFS, QUICK_WARM) if self._args.quick else (module.N, module.WARM)
        result = module.measure(n=n, warm=warm)
        samples = {
            "handoff_vanilla_over_lifl": ("vanilla", "latency"),
            "handoff_cpu_vanilla_over_lifl": ("vanilla", "cpu"),
            "handoff_direct_over_lifl": ("direct", "latency"),
        }
        self.runner.others["handoff"] = handoffs(
            {
                f"{key}{of}": (
                    result.seconds(way, what),
                    result.seconds(f"lifl{of}", what),
                    module.PATHS[way],
                )
                for key, (way, what) in samples.items()
                for of in ("", "_two_passes")
            },
            [asdict(r) | {"holds": r.holds} for r in module.references(result)],
            stand_ins=list(result.stand_ins),
            versions=dict(result.versions),
            counted=result.counted,
        )

    def _audit(self) -> None:
        outcome = next((o for o in self.runner.outcomes if o.workload.name == ROUND), None)
        if outcome is None:
            raise LiflError(f"it is taken of {ROUND}, which was not run")
        audited = ("lifl", "vanilla") if self._args.quick else (*TRIO, *PEERS)
        sides = outcome.sides
        names = [n for n in audited if n in sides and sides[n].rounds and not sides[n].failed]
        load, rounds = outcome.workload.load, auditing.ROUNDS
        if self._args.quick:
            number, rounds = QUICK_AUDITED, 1
            name = f"burst-{number}x{load.model}"
            load = Load(name, load.model, number, arrivals.burst(number))
        self.runner.others["audit"] = auditing.audit(
            load, shapes.document(load.model), makers(), names, open_group, rounds=rounds
        )

    def _sim(self) -> None:
        module = importlib.import_module("bench.sim.validate")
        costs = module.measured(quick=self._args.quick)
        self.runner.others["sim"] = module.run(self.runner.to_json(), costs)


def _tell(console: Console, summary: Mapping[str, Any], out: Path) -> None:
    from rich.table import Table

    from bench.compare.report import tables

    found = tables.bars(summary)
    shown = Table("figure", "median", "spread", "bar", "", box=None)
    for key, _, *rest in found.rows:
        shown.add_row(key.strip("`"), *rest[:4])
    console.print(shown)
    console.print(f"see {out / 'index.html'}", highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="under 5 minutes on 2 cores; full: under 60")
    add("--systems", nargs="+", choices=[*workloads.FACTORS], metavar="SIDE", help="default: all")
    add("--workloads", nargs="+", metavar="NAME", help="names, or how they begin; default: all")
    add("--out", type=Path, default=Path("results/compare"), help="where to write")
    add("--against", type=Path, metavar="DIR", help="an earlier run to compare with")
    add(
        "--max-seconds",
        type=float,
        metavar="S",
        help="begin no part that is not expected to end by then; "
        f"default: {QUICK_SECONDS:.0f} with --quick, else {FULL_SECONDS:.0f}",
    )
    add("--leaf", type=Path, metavar="FILE", help="FEMNIST in LEAF's format, to train on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
