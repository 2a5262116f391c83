"""The runner with sides that do nothing: order, pairs, and failures that cost others nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench.compare import arrivals
from bench.compare.api import Load, Reference, Round, Usage
from bench.compare.outcome import Outcome, Played, Side
from bench.compare.runner import Runner, turns
from bench.compare.sides import Absent
from bench.compare.workloads import FACTORS, Workload

LOAD = Load("trial", "1000kb", 2, arrivals.burst(2))


class FakeGroup:
    how = "not at all"

    def __init__(self) -> None:
        self.cpu = 0.0

    @contextlib.contextmanager
    def adopt(self) -> Iterator[None]:
        yield

    def usage(self) -> Usage:
        return Usage(self.cpu, 0.0, 7)

    def memory(self) -> int:
        return 1000


class FakeSystem:
    title = "A side"
    stand_ins = ("all of it",)
    versions: ClassVar[dict[str, str]] = {"fake": "1"}

    def __init__(self, name: str, log: list[str], group: FakeGroup, fail_at: int | None) -> None:
        self.name = name
        self._log = log
        self._group = group
        self._fail_at = fail_at
        self.plays = 0

    def __enter__(self) -> FakeSystem:
        self._log.append(f"{self.name} up")
        return self

    def __exit__(self, *raised: object) -> None:
        self._log.append(f"{self.name} down")

    def play(self, updates: int | None = None) -> Round:
        if self.plays == self._fail_at:
            raise RuntimeError("the mean is wrong")
        self.plays += 1
        self._log.append(f"{self.name} {updates or ''}".strip())
        self._group.cpu += 2.0
        return Round(wall=1.0, last_byte=0.5, updates=updates or 2, created=1)

    def references(self) -> Sequence[Reference]:
        return (Reference("a hop", 90.0, 100.0),)


class Heard:
    def __init__(self) -> None:
        self.lost_sides: list[tuple[str, str]] = []
        self.plays = 0
        self.told = 0

    def begin(self, workload: Workload, sides: Sequence[str], plays: int) -> None:
        self.plays = plays

    def played(self, side: Side, played: Played) -> None:
        self.told += 1

    def lost(self, side: str, why: str) -> None:
        self.lost_sides.append((side, why))


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bench.compare.workloads.FACTORS",
        {**FACTORS, "a": (0.1, 0), "b": (0.1, 0), "greedy": (1.0, 10**15)},
    )


Run = Callable[..., tuple[Outcome, Heard, Runner]]


@pytest.fixture
def run(tmp_path: Path, log: list[str], factors: None) -> Run:
    def play(
        makers: dict[str, Any], *, load: Load = LOAD, **options: Any
    ) -> tuple[Outcome, Heard, Runner]:
        heard = Heard()

        @contextlib.contextmanager
        def open_group(name: str) -> Iterator[FakeGroup]:
            yield FakeGroup()
            log.append(f"{name} gone")

        made = Runner(tmp_path, makers, open_group, heard, about={"machine": {}})
        workload = Workload(load, tuple(makers), "at once", "a trial", **options)
        return made.run(workload, b"document"), heard, made

    return play


def _side(name: str, log: list[str], fail_at: int | None = None) -> Any:
    return lambda load, group, document: FakeSystem(name, log, group, fail_at)


def test_rounds_on_a_busy_machine_are_counted(
    run: Run, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rested = iter([True, False, True])
    monkeypatch.setattr("bench.compare.runner.settle", lambda: next(rested))
    outcome, _, made = run({"a": _side("a", log)}, rounds=2)
    assert outcome.restless == 1
    assert made.to_json()["workloads"][0]["restless"] == 1


def test_sides_play_in_turn(run: Run, log: list[str], tmp_path: Path) -> None:
    outcome, heard, made = run({"a": _side("a", log), "b": _side("b", log)}, rounds=2)
    played = [name for index in (-1, 0, 1) for name in turns(outcome.workload, "ab", index)]
    assert log == ["a up", "b up", *played, "b down", "b gone", "a down", "a gone"]
    assert (heard.plays, heard.told) == (6, 6)
    assert not made.failed()
    for side in outcome.sides.values():
        assert [p.index for p in side.rounds] == [-1, 0, 1]
        assert [p.index for p in side.counting()] == [0, 1]
        assert all(p.usage == Usage(2.0, 0.0, 0) for p in side.rounds)
        assert side.rounds[0].peak == 1000
    kept = json.loads((tmp_path / "rounds.json").read_text())
    (workload,) = kept["workloads"]
    assert workload["together"] is True
    first = workload["sides"]["a"]
    assert first["rounds"][1]["cpu"] == 2.0
    assert first["rounds"][1]["memory"][0][1] == 1000
    assert first["references"] == [
        {"path": "a hop", "measured": 90.0, "published": 100.0, "holds": True}
    ]
    assert first["stand_ins"] == ["all of it"]
    assert first["counted"] == "not at all"


def test_nobody_always_comes_after_the_same_other() -> None:
    workload = Workload(LOAD, tuple("abcd"), "at once", "a trial")
    orders = [turns(workload, "abcd", index) for index in range(-1, 7)]
    assert all(sorted(order) == list("abcd") for order in orders)
    assert orders == [turns(workload, "abcd", index) for index in range(-1, 7)]
    played = [name for order in orders for name in order]
    before = {name: set() for name in "abcd"}
    for earlier, name in itertools.pairwise(played):
        before[name].add(earlier)
    assert all(len(others) > 1 for others in before.values())
    assert {order[0] for order in orders} > {"a"}


def test_one_after_the_other(run: Run, log: list[str]) -> None:
    makers = {"a": _side("a", log), "b": _side("b", log)}
    outcome, heard, _ = run(makers, rounds=1, together=False, passes=2)
    one = ["a up", "a", "a", "a down", "a gone", "b up", "b", "b", "b down", "b gone"]
    assert log == one * 2
    assert heard.plays == heard.told == 8
    assert len(outcome.sides["a"].counting()) == 2


def test_sizes_are_played_in_turn_and_each_is_warmed_up(run: Run, log: list[str]) -> None:
    load = Load("trial", "1000kb", 2, arrivals.burst(2), sizes=(2, 1, 2))
    outcome, heard, _ = run({"a": _side("a", log)}, load=load, rounds=3)
    assert [line for line in log if line[-1].isdigit()] == ["a 1", "a 2", "a 2", "a 1", "a 2"]
    assert [p.round.updates for p in outcome.sides["a"].counting()] == [2, 1, 2]
    assert heard.plays == 5


def test_slow_sides_play_fewer_rounds(run: Run, log: list[str]) -> None:
    makers = {"a": _side("a", log), "b": _side("b", log)}
    outcome, heard, _ = run(makers, rounds=3, few={"b": 1})
    assert len(outcome.sides["a"].counting()) == 3
    assert len(outcome.sides["b"].counting()) == 1
    assert heard.plays == heard.told == 6


def test_cold_sides_have_no_warm_up(run: Run, log: list[str], tmp_path: Path) -> None:
    makers = {"a": _side("a", log), "b": _side("b", log)}
    outcome, heard, _ = run(makers, rounds=2, cold=("b",), few={"b": 1}, titles={"b": "+x +y"})
    assert [p.index for p in outcome.sides["a"].rounds] == [-1, 0, 1]
    assert [p.index for p in outcome.sides["b"].rounds] == [0]
    assert heard.plays == heard.told == 4
    (kept,) = json.loads((tmp_path / "rounds.json").read_text())["workloads"]
    assert (kept["cold"], kept["few"]) == (["b"], {"b": 1})
    assert [side["title"] for side in kept["sides"].values()] == ["A side", "+x +y"]


def test_a_failure_costs_the_others_nothing(run: Run, log: list[str], tmp_path: Path) -> None:
    makers = {"a": _side("a", log, fail_at=1), "b": _side("b", log)}
    outcome, heard, made = run(makers, rounds=2)
    assert outcome.sides["a"].failed == "RuntimeError: the mean is wrong"
    assert len(outcome.sides["b"].counting()) == 2
    assert outcome.sides["b"].failed == ""
    assert heard.lost_sides == [("a", "RuntimeError: the mean is wrong")]
    assert log.count("a down") == log.count("a gone") == 1
    assert made.failed()
    kept = json.loads((tmp_path / "rounds.json").read_text())
    assert kept["workloads"][0]["sides"]["a"]["failed"] == "RuntimeError: the mean is wrong"


def test_a_side_that_does_not_start_is_no_sides_trouble(run: Run, log: list[str]) -> None:
    def broken(load: Load, group: Any, document: bytes) -> Any:
        raise OSError("no such port")

    outcome, _, made = run({"a": broken, "b": _side("b", log)}, rounds=1)
    assert "no such port" in outcome.sides["a"].failed
    assert log[0] == "a gone"
    assert len(outcome.sides["b"].counting()) == 1
    assert made.failed()


def test_an_absent_peer_is_no_failure(run: Run, log: list[str]) -> None:
    def absent(load: Load, group: Any, document: bytes) -> Any:
        raise Absent("it is not installed")

    outcome, heard, made = run({"a": absent, "b": _side("b", log)}, rounds=1)
    assert outcome.sides["a"].not_run == "it is not installed"
    assert heard.lost_sides == [("a", "it is not installed")]
    assert not made.failed()


def test_what_does_not_fit_is_not_run(run: Run, log: list[str]) -> None:
    outcome, heard, made = run({"greedy": _side("greedy", log), "b": _side("b", log)}, rounds=1)
    assert "would hold up to" in outcome.sides["greedy"].not_run
    assert heard.lost_sides[0][0] == "greedy"
    assert "greedy up" not in log
    assert not made.failed()


def test_alone_a_side_is_charged_for_what_it_does_between_rounds(run: Run, log: list[str]) -> None:
    class Restless(FakeSystem):
        def play(self, updates: int | None = None) -> Round:
            done = super().play(updates)
            group = self._group
            count = group.usage

            def later() -> Usage:  # a call after the one that ends the round
                group.usage = count_again  # type: ignore[method-assign]
                return count()

            def count_again() -> Usage:
                group.cpu += 0.5
                group.usage = count  # type: ignore[method-assign]
                return count()

            group.usage = later  # type: ignore[method-assign]
            return done

    def make(load: Load, group: FakeGroup, document: bytes) -> Restless:
        return Restless("a", log, group, None)

    outcome, _, _ = run({"a": make}, rounds=2)
    assert [p.usage.user for p in outcome.sides["a"].counting()] == [2.5, 2.5]
    outcome, _, _ = run({"a": make, "b": _side("b", log)}, rounds=2)
    side = outcome.sides["a"]
    assert [p.usage.user for p in side.counting()] == [2.0, 2.0]
    assert side.idle_cpu == 1.0


def test_a_side_is_asked_once_how_good_its_path_is(run: Run, log: list[str]) -> None:
    outcome, _, made = run({"a": _side("a", log)}, rounds=1)
    again = made.run(outcome.workload, b"document")
    assert len(outcome.sides["a"].references) == 1
    assert len(again.sides["a"].references) == 0
