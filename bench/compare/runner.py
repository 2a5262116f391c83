"""Plays workloads: sides in turn, each in its group.

Why: sides are compared within minutes of one another, round by round (A B C, B A C, …), so
that a slow minute of the machine does not fall on one of them alone; and what one side
cannot do costs the others nothing. It must not know what any side is, nor judge.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

from bench.compare import shapes, workloads
from bench.compare.machine import join_free_memory, settle
from bench.compare.outcome import Outcome, Played, Side
from bench.compare.player import OpenGroup, Player
from bench.compare.sides import Absent, Maker
from bench.compare.workloads import Workload

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Who wants to hear how it goes."""

    def begin(self, workload: Workload, sides: Sequence[str], plays: int) -> None:
        """A workload begins, with so many rounds to be played."""

    def played(self, side: Side, played: Played) -> None:
        """A round has been played."""

    def lost(self, side: str, why: str) -> None:
        """A side cannot go on, or was not run."""


def turns(workload: Workload, names: Sequence[str], index: int) -> list[str]:
    """Return in which order sides play a round: drawn for each round, the same in every run.

    In one and the same order everybody would always come after the same other, and find the
    machine as that has left it.
    """
    order = list(names)
    random.Random(f"{workload.name} {index}").shuffle(order)
    return order


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
        """Have ``names`` up at once and play them in turn, all in memory of one kind."""
        join_free_memory()
        with contextlib.ExitStack() as stack:
            up: dict[str, Player] = {}
            for name in names:
                side = outcome.sides[name]
                if side.failed or side.not_run:
                    continue
                player = Player(side, self._start, alone=len(names) == 1)
                with self._kept(side, up):
                    player.enter(self._open_group, self._makers[name], outcome, document)
                    up[name] = player
                if name not in up:
                    player.leave()
                else:
                    stack.callback(self._leave, player)
            self._play(outcome, up)

    def _play(self, outcome: Outcome, up: dict[str, Player]) -> None:
        workload = outcome.workload
        sizes = workload.load.sizes
        warm_ups = sorted(set(sizes)) or [None]
        plan: list[tuple[int, int | None]] = [(-1, n) for n in warm_ups * workload.warm]
        plan += [(i, sizes[i % len(sizes)] if sizes else None) for i in range(workload.rounds)]
        for index, number in plan:
            for name in turns(workload, list(up), index):
                player = up[name]
                if index >= workload.few.get(name, workload.rounds):
                    continue
                if index < 0 and name in workload.cold:
                    continue
                outcome.restless += not settle()
                with self._kept(player.side, up):
                    self._watcher.played(player.side, player.play(index, number))
            self.write()
        for name, player in list(up.items()):
            if name in self._asked:
                continue  # once a run: it is of the side's path, not of a workload
            self._asked.add(name)
            with self._kept(player.side, up):
                player.ask_references()

    def _leave(self, player: Player) -> None:
        with self._kept(player.side, {}):
            player.leave()
        gc.collect()

    @contextlib.contextmanager
    def _kept(self, side: Side, up: dict[str, Player]) -> Iterator[None]:
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
