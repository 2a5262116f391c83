"""What LIFL's sides are made of; playing them is an integration test."""

from __future__ import annotations

import itertools
import os

import pytest

from bench import harness
from bench.clients import Sent
from bench.compare import arrivals, lifl, steps
from bench.compare.api import Load


class NoGroup:
    """For sides that are not entered."""


LOAD = Load("trial", "1000kb", 2, arrivals.burst(2))


def test_steps_add_up() -> None:
    made = {name: make(LOAD, NoGroup(), b"") for name, make in steps.ablation().items()}
    switches = [dict(s._switches) for s in made.values()]
    base, *_, last = switches
    assert base["LIFL_PLACEMENT"] == "worstfit"
    assert {base[f"LIFL_{n}"] for n in ("HIERARCHY", "REUSE", "EAGER")} == {"off"}
    assert {last[f"LIFL_{n}"] for n in ("HIERARCHY", "REUSE", "EAGER")} == {"on"}
    assert last["LIFL_NODE_CAPACITY"] == "20"
    for before, after in itertools.pairwise(switches):
        assert sum(before[k] != after[k] for k in after) == 1
    assert [s.title for s in made.values()] == [
        *("base", "+placement", "+hierarchy", "+reuse", "+eager")
    ]
    assert all(s.name == name for name, s in made.items())


def test_stand_ins_say_what_a_side_lacks() -> None:
    plain = lifl.Lifl(LOAD, NoGroup(), b"", dataplane="socket")
    assert any("plain sockets" in s for s in plain.stand_ins)
    varying = Load("trial", "1000kb", 2, arrivals.burst(2), sizes=(1, 2))
    assert any("one job for each" in s for s in lifl.Lifl(varying, NoGroup(), b"").stand_ins)
    base = next(iter(steps.ablation().values()))(LOAD, NoGroup(), b"")
    assert any("5 nodes" in s for s in base.stand_ins)


def test_settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFL_REUSE", "on")
    monkeypatch.delenv("LIFL_EAGER", raising=False)
    with harness.environment({"LIFL_REUSE": "off", "LIFL_EAGER": "off"}):
        assert os.environ["LIFL_REUSE"] == os.environ["LIFL_EAGER"] == "off"
    assert os.environ["LIFL_REUSE"] == "on"
    assert "LIFL_EAGER" not in os.environ


def test_marks_are_seconds_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    monkeypatch.setattr("time.monotonic", lambda: 50.0)
    summary = {"opened": 990.0, "closed": 993.0, "summed": None, "committed": 994.0}
    sent = [Sent(41.0, 42.0, 42.5, 202, b""), Sent(41.0, 42.0, 42.25, 202, b"")]
    assert lifl._marks(summary, 41.0, sent) == {
        "opened": -1.0,
        "closed": 2.0,
        "committed": 3.0,
        "last_answer": 1.5,
    }
