"""A run as ``rounds.json`` has it, made up: what summary and report read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest

Made = dict[str, Any]


def _side(name: str, walls: Sequence[float], cpu: float = 1.0, **changes: Any) -> Made:
    rounds = [
        {
            "index": i,
            "wall": wall,
            "last_byte": wall / 2,
            "updates": 8,
            "created": 3,
            "nodes": 1,
            "marks": {},
            "user": cpu / 2,
            "system": cpu / 2,
            "cpu": cpu,
            "switches": 80,
            "peak": 500_000_000,
            "memory": [[0.0, 400_000_000], [wall, 500_000_000]],
            "at": 1.0 + i,
        }
        for i, wall in enumerate([9.0, *walls], start=-1)
    ]
    return {
        "title": f"The {name} side",
        "stand_ins": ["loopback in place of a network"],
        "versions": {name: "1.2"},
        "counted": "by control groups",
        "idle_cpu": 0.0,
        "idle_seconds": 0.0,
        "references": [],
        "failed": "",
        "not_run": "",
        "rounds": rounds,
    } | changes


def _workload(name: str, sides: Made, **changes: Any) -> Made:
    return {
        "name": name,
        "model": "45mb",
        "title": "ResNet-18 (45 MB)",
        "clients": 8,
        "sizes": [],
        "arrivals": [0.0] * 8,
        "arrive": "all at once",
        "purpose": "a whole round",
        "rounds": 3,
        "warm": 1,
        "together": True,
        "passes": 1,
        "seconds": 12.0,
        "restless": 0,
        "sides": sides,
    } | changes


@pytest.fixture
def side() -> Callable[..., Made]:
    """Return how to make up a side."""
    return _side


@pytest.fixture
def workload() -> Callable[..., Made]:
    """Return how to make up a workload."""
    return _workload


@pytest.fixture(scope="session")
def pristine() -> Made:
    """Return a run in which three sides were played, one was not installed; not to be changed."""
    sides = {
        "lifl": _side("lifl", [0.2, 0.2, 0.4], cpu=0.5),
        "lifl-socket": _side("lifl-socket", [0.2, 0.2, 0.4], cpu=0.5),
        "serverful": _side("serverful", [0.6, 0.4, 0.8], cpu=1.0),
        "vanilla": _side("vanilla", [1.0, 1.0, 1.2], cpu=2.0),
        "flower": _side("flower", [], not_run="run scripts/peers flower", rounds=[]),
    }
    steps = {
        f"step-{i}-{n}": _side(n, [2.0 - i, 2.5 - i, 2.2 - i]) for i, n in enumerate(("base", "x"))
    }
    training = {
        "lifl": _side("lifl", [1.0, 1.0], cpu=0.5),
        "serverful": _side("serverful", [1.5, 2.0], cpu=1.0),
    }
    return {
        "quick": True,
        "date": "2026-11-26 15:00",
        "machine": {
            "cpu": "A <CPU>",
            "cores": 2,
            "memory_gb": 24.0,
            "kernel": "6.1",
            "congestion": "bbr",
            "load": 0.1,
        },
        "seconds": 100.0,
        "lost": {"handoff": "RuntimeError: no redis-server"},
        "trainings": {
            "resnet18": {
                "task": {"title": "ResNet-18", "target": 0.9, "name": "resnet18"},
                "data": "digits | scaled",
                "reached": 2,
                "rounds": [{"accuracy": 0.4}, {"accuracy": 0.92}],
            }
        },
        "workloads": [
            _workload("burst-8x45mb", sides),
            _workload("ablation-20x45mb", steps, together=False, clients=20),
            _workload(
                "train-resnet18",
                training,
                sizes=[2, 8],
                arrivals=[0.1 * i for i in range(1, 9)],
                rounds=2,
            ),
        ],
    }


@pytest.fixture
def run(pristine: Made) -> Made:
    """Return a run like ``pristine`` of the test's own."""
    return copy.deepcopy(pristine)
