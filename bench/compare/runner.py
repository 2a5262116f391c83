"""Plays workloads: sides in turn, each in its group, and keeps what was seen.

Why: sides are compared within minutes of one another, round by round (A B C A B C …), so
that a slow minute of the machine does not fall on one of them alone; and what one side
cannot do costs the others nothing. It must not know what any side is, nor judge.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from bench.compare import lifl, shapes, workloads
from bench.compare.api import Group, Load, Reference, Round, System, Usage
from bench.compare.memory import Sampler
from bench.compare.peer import Venv
from bench.compare.workloads import Workload

log = logging.getLogger(__name__)

Maker = Callable[[Load, Group, bytes], System]
OpenGroup = Callable[[str], contextlib.AbstractContextManager[Group]]
PEERS = {"flower": "flwr", "nvflare": "nvflare"}
"""Sides that may be absent, and their package."""
POINTS = 150
"""Of a round's memory over time, at most so many are kept."""


class Absent(Exception):
    """A side cannot be played here; the text says what it wants."""


@dataclass(frozen=True, slots=True)
class Played:
    """One round as the runner saw it. ``index`` -1 is a warm-up.

    ``usage`` is of the whole ``play``; ``memory`` are (seconds, bytes) and ``peak`` the most of
    them. ``at`` is seconds since the run's start.
    """

    index: int
    round: Round
    usage: Usage
    peak: int
    memory: Sequence[tuple[float, int]]
    at: float


@dataclass(slots=True)
class Side:
    """What one side did in a workload."""

    name: str
    title: str = ""
    stand_ins: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    counted: str = ""
    rounds: list[Played] = field(default_factory=list)
    idle_cpu: float = 0.0
    idle_seconds: float = 0.0
    references: Sequence[Reference] = ()
    failed: str = ""
    not_run: str = ""

    def counting(self) -> list[Played]:
        """Return the rounds that are no warm-up."""
        return [p for p in self.rounds if p.index >= 0]


@dataclass(slots=True)
class Outcome:
    """A workload's sides, and how they were run."""

    workload: Workload
    together: bool = True
    sides: dict[str, Side] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what stands in ``rounds.json``."""
        w = self.workload
        return {
            "name": w.name,
            "model": w.load.model,
            "title": shapes.title(w.load.model),
            "clients": w.load.clients,
            "sizes": list(w.load.sizes),
            "arrivals": list(w.load.arrivals),
            "arrive": w.arrive,
            "purpose": w.purpose,
            "rounds": w.rounds,
            "warm": w.warm,
            "together": self.together,
            "passes": w.passes,
            "few": dict(w.few),
            "cold": list(w.cold),
            "seconds": round(self.seconds, 1),
            "sides": {name: _side(side) for name, side in self.sides.items()},
        }


class Watcher(Protocol):
    """Who wants to hear how it goes."""

    def begin(self, workload: Workload, sides: Sequence[str], plays: int) -> None:
        """A workload begins, with so many rounds to be played."""

    def played(self, side: Side, played: Played) -> None:
        """A round has been played."""

    def lost(self, side: str, why: str) -> None:
        """A side cannot go on, or was not run."""


def makers() -> dict[str, Maker]:
    """Return every side by name; those that are not installed raise Absent when called."""
    found: dict[str, Maker] = {"lifl": lifl.make, "lifl-socket": lifl.make_socket}
    for name in ("serverful", "vanilla", "flower", "nvflare"):
        found[name] = _from_module(name)
    found["vanilla-warm"] = _from_module("vanilla", "make_warm")
    found["flower-inprocess"] = _from_module("flower", "make_inprocess")
    return found | lifl.ablation()


def _from_module(name: str, function: str = "make") -> Maker:
    """Return a maker that imports its side only when it is played."""

    def make(load: Load, group: Group, document: bytes) -> System:
        try:
            module = importlib.import_module(f"bench.compare.{name}")
        except ImportError as e:
            raise Absent(f"{e}; pip install 'lifl[compare]'") from e
        if name in PEERS and (why := Venv(name, PEERS[name]).why_missing()):
            raise Absent(why)
        made: System = getattr(module, function)(load, group, document)
        return made

    return make


class Runner:
    """Plays workloads and keeps ``rounds.json`` up to date in ``out``."""

    def __init__(
        self,
        out: Path,
        sides: Mapping[str, Maker],
        open_group: OpenGroup,
        watcher: Watcher,
        *,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.others: dict[str, Any] = {}
        """What else is told in ``rounds.json``, by name."""
        self._out = out
        self._makers = sides
        self._open_group = open_group
        self._watcher = watcher
        self._about = dict(about or {})
        self._start = time.monotonic()
        self._document: tuple[str, bytes] = ("", b"")
        self._asked: set[str] = set()

    def run(self, workload: Workload, document: bytes | None = None) -> Outcome:
        """Play one workload with the sides that can; none of their failures is raised.

        ``document`` is what clients send, by default a ready-made one of the load's model.
        """
        outcome = Outcome(workload)
        self.outcomes.append(outcome)
        began = time.monotonic()
        if document is None:
            document = self._ready_made(workload.load.model)
        chosen = workloads.choose(workload, len(document), psutil.virtual_memory().available)
        outcome.together = chosen.together
        for name in workload.sides:
            outcome.sides[name] = Side(name, not_run=chosen.left_out.get(name, ""))
        plays = sum(workload.plays(name) for name in chosen.sides)
        self._watcher.begin(workload, chosen.sides, plays)
        for name, why in chosen.left_out.items():
            self._watcher.lost(name, why)
        if chosen.together:
            self._pass(outcome, chosen.sides, document)
        else:
            for _ in range(workload.passes):
                for name in chosen.sides:
                    self._pass(outcome, [name], document)
        outcome.seconds = time.monotonic() - began
        self.write()
        return outcome

    def write(self) -> None:
        """Write ``rounds.json``, whole or not at all."""
        self._out.mkdir(parents=True, exist_ok=True)
        path = self._out / "rounds.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.to_json(), indent=1) + "\n")
        part.replace(path)

    def to_json(self) -> dict[str, Any]:
        """Return all that was seen so far."""
        return {
            **self._about,
            "seconds": round(time.monotonic() - self._start, 1),
            "workloads": [o.to_json() for o in self.outcomes],
            **self.others,
        }

    def failed(self) -> bool:
        """Return whether a side could not be measured that was there."""
        return any(s.failed for o in self.outcomes for s in o.sides.values())

    def _ready_made(self, model: str) -> bytes:
        if self._document[0] != model:
            self._document = ("", b"")  # not two of 233 MB at once
            self._document = (model, shapes.document(model))
        return self._document[1]

    def _pass(self, outcome: Outcome, names: Sequence[str], document: bytes) -> None:
        """Have ``names`` up at once and play them in turn."""
        with contextlib.ExitStack() as stack:
            up: dict[str, _Player] = {}
            for name in names:
                side = outcome.sides[name]
                if side.failed or side.not_run:
                    continue
                player = _Player(side, self._start, alone=len(names) == 1)
                with self._kept(side, up):
                    player.enter(self._open_group, self._makers[name], outcome, document)
                    up[name] = player
                if name not in up:
                    player.leave()
                else:
                    stack.callback(self._leave, player)
            self._play(outcome.workload, up)

    def _play(self, workload: Workload, up: dict[str, _Player]) -> None:
        sizes = workload.load.sizes
        warm_ups = sorted(set(sizes)) or [None]
        plan: list[tuple[int, int | None]] = [(-1, n) for n in warm_ups * workload.warm]
        plan += [(i, sizes[i % len(sizes)] if sizes else None) for i in range(workload.rounds)]
        for index, number in plan:
            for name, player in list(up.items()):
                if index >= workload.few.get(name, workload.rounds):
                    continue
                if index < 0 and name in workload.cold:
                    continue
                with self._kept(player.side, up):
                    self._watcher.played(player.side, player.play(index, number))
            self.write()
        for name, player in list(up.items()):
            if name in self._asked:
                continue  # once a run: it is of the side's path, not of a workload
            self._asked.add(name)
            with self._kept(player.side, up):
                player.ask_references()

    def _leave(self, player: _Player) -> None:
        with self._kept(player.side, {}):
            player.leave()
        gc.collect()

    @contextlib.contextmanager
    def _kept(self, side: Side, up: dict[str, _Player]) -> Iterator[None]:
        """Note what a side raises, and go on without it."""
        try:
            yield
        except Absent as e:
            side.not_run = str(e)
            up.pop(side.name, None)
            self._watcher.lost(side.name, side.not_run)
        except Exception as e:
            log.debug("%s failed", side.name, exc_info=True)
            side.failed = side.failed or f"{type(e).__name__}: {e}"
            up.pop(side.name, None)
            self._watcher.lost(side.name, side.failed)


class _Player:
    """One side that is up: its system and its group."""

    def __init__(self, side: Side, start: float, *, alone: bool) -> None:
        self.side = side
        self._run_start = start
        self._alone = alone
        self._stack = contextlib.ExitStack()

    def enter(self, open_group: OpenGroup, maker: Maker, outcome: Outcome, document: bytes) -> None:
        """Open its group and start it."""
        self._group = self._stack.enter_context(open_group(self.side.name.replace("_", "-")))
        self.side.counted = getattr(self._group, "how", "")
        system = maker(outcome.workload.load, self._group, document)
        self.side.title = outcome.workload.titles.get(self.side.name, system.title)
        self.side.stand_ins = tuple(system.stand_ins)
        self._system = self._stack.enter_context(system)
        self.side.versions = dict(system.versions)
        self._last, self._last_at = self._group.usage(), time.monotonic()

    def play(self, index: int, updates: int | None) -> Played:
        """Play a round; one that runs alone is charged for what it did since the last one too."""
        before, began = self._group.usage(), time.monotonic()
        idle = before.since(self._last)
        if self._alone:
            before = self._last
        elif index >= 0:
            self.side.idle_cpu += idle.cpu
            self.side.idle_seconds += began - self._last_at
        with Sampler(self._group) as sampler:
            done = self._system.play(updates)
        self._last, self._last_at = self._group.usage(), time.monotonic()
        played = Played(
            index,
            done,
            self._last.since(before),
            sampler.peak,
            sampler.series(POINTS),
            began - self._run_start,
        )
        self.side.rounds.append(played)
        return played

    def ask_references(self) -> None:
        """Ask how its path does against what is published."""
        self.side.references = tuple(self._system.references())

    def leave(self) -> None:
        """End the system, then its group."""
        self._stack.close()


def machine() -> dict[str, Any]:
    """Return what a reader must know of this machine, and how busy others keep it."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        os.uname().machine,
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": os.uname().release,
        "load": round(os.getloadavg()[0], 2),
    }


def _side(side: Side) -> dict[str, Any]:
    rounds = [
        {
            "index": p.index,
            "wall": p.round.wall,
            "last_byte": p.round.last_byte,
            "updates": p.round.updates,
            "created": p.round.created,
            "nodes": p.round.nodes,
            "marks": dict(p.round.marks),
            "user": p.usage.user,
            "system": p.usage.system,
            "cpu": p.usage.cpu,
            "switches": p.usage.switches,
            "peak": p.peak,
            "memory": [[round(t, 4), n] for t, n in p.memory],
            "at": round(p.at, 2),
        }
        for p in side.rounds
    ]
    return {
        "title": side.title or side.name,
        "stand_ins": list(side.stand_ins),
        "versions": dict(side.versions),
        "counted": side.counted,
        "idle_cpu": side.idle_cpu,
        "idle_seconds": side.idle_seconds,
        "references": [asdict(r) | {"holds": r.holds} for r in side.references],
        "failed": side.failed,
        "not_run": side.not_run,
        "rounds": rounds,
    }
