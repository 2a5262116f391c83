"""Sides in turn, what they spent, and the table of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from bench.compare.api import Load, Round
from bench.compare.knative import play, table
from bench.compare.knative.__main__ import main
from bench.compare.knative.usage import Key, Meter, Reading, Sample
from tests.unit.bench.compare.knative.doubles import FakeKube

LOAD = Load("burst-2x8kb", "8kb", 2, (0.0, 0.0))


class Clockwork(Meter):
    """Each reading finds one second more of a function, half of it in its sidecar."""

    def __init__(self) -> None:
        super().__init__(FakeKube({("nodes",): {"items": []}}), ["ns"])
        self.asked = 0

    def fresh(self) -> Sample:
        self.asked += 1
        n = float(self.asked)
        return {
            Key("ns", "p"): Reading(n, int(n)),
            Key("ns", "p", "queue-proxy"): Reading(n / 2, int(n)),
        }


class FakeSide:
    block = 0
    stand_ins = ("it is a double",)
    versions = {"double": "1"}  # noqa: RUF012

    def __init__(self, name: str, log: list[str], fails_at: int = -1) -> None:
        self.name, self.title = name, f"Side {name}"
        self._log, self._fails_at, self._played = log, fails_at, 0

    def __enter__(self) -> Self:
        self._log.append(f"{self.name} up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.append(f"{self.name} down")

    def play(self, updates: int | None = None) -> Round:
        self._log.append(self.name)
        self._played += 1
        if self._played == self._fails_at:
            raise TimeoutError("no mean | came")
        return Round(wall=float(self._played), last_byte=0.5, updates=2, created=1)


def test_sides_play_in_turn_and_a_failure_costs_the_others_nothing(tmp_path: Path) -> None:
    log: list[str] = []
    meter = Clockwork()
    player = play.Player(LOAD, 8000, meter, lambda _: None)
    sides = [FakeSide("a", log), FakeSide("b", log, fails_at=3)]
    seen = player.run(sides, rounds=2, warm=1, turns=2)
    assert log == ["a up", "b up", *"aaa", *"bbb", *"aaa", "b down", "a down"]
    assert meter.asked == 2 + 2 * 2 + 1  # idle, each of a's blocks, the one that b broke off
    a, b = seen.sides["a"], seen.sides["b"]
    assert [r.wall for r in a.warm_ups] == [1.0, 4.0]
    assert [[r.wall for r in block.rounds] for block in a.blocks] == [[2.0, 3.0], [5.0, 6.0]]
    assert [block.cpu and block.cpu.by_namespace for block in a.blocks] == [{"ns": 1.0}] * 2
    assert b.failed == "TimeoutError: no mean | came"
    assert [(len(block.rounds), block.cpu) for block in b.blocks] == [(1, None)]
    assert seen.idle.whole == 1.0
    text = table.render({"nodes": 2}, [seen])
    play.write(tmp_path, {"nodes": 2}, [seen], text)
    (told,) = json.loads((tmp_path / "rounds.json").read_text())["workloads"]
    assert told["sides"]["a"]["blocks"][0]["rounds"][0]["wall"] == 2.0
    assert told["sides"]["a"]["blocks"][0]["cpu"]["queue_proxy"] == 0.5
    rows = [line for line in text.splitlines() if line.startswith("| Side")]
    assert rows[0].startswith("| Side a | 4 [2 .. 6] | 0.5 [0.5 .. 0.5] | 1 [1 .. 1] | 0.5 [")
    assert rows[1].startswith("| Side b; then failed: TimeoutError: no mean / came | 2 [")


def test_a_side_whose_pods_end_is_read_round_by_round() -> None:
    side = FakeSide("zero", [])
    side.block = 1
    seen = play.Player(LOAD, 8000, Clockwork(), lambda _: None).run([side], rounds=2, warm=0)
    assert [len(b.rounds) for b in seen.sides["zero"].blocks] == [1, 1]


def test_a_side_that_never_played_is_in_the_table() -> None:
    side = FakeSide("a", [], fails_at=1)
    seen = play.Player(LOAD, 8000, Clockwork(), lambda _: None).run([side], rounds=2, warm=1)
    assert "| Side a | failed: TimeoutError: no mean / came |" in table.render({}, [seen])


def test_above_idle_takes_off_what_is_spent_anyway() -> None:
    seen = play.Seen(LOAD, 8000, idle=play.Spent({"ns": 2.0}, 0.0), idle_seconds=20.0)
    done = [Round(wall=1.0, last_byte=0.5, updates=2)] * 2
    assert table.above_idle(play.Block(done, play.Spent({"ns": 5.0}, 0.0), 10.0), seen) == 2.0


def test_without_a_cluster_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert main(["--out", str(tmp_path)]) == 2
    assert "KUBECONFIG names no cluster" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--models", "big"], ["--models", "0kb"], ["--sides", "x"]])
def test_wrong_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert wrong[1] in capsys.readouterr().err


def test_a_wrong_address_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert main(["--ingress", "broker"]) == 2
    assert "--ingress is HOST:PORT" in capsys.readouterr().err
