"""Flower as a side, with its real SuperLink and ServerApp, small; skipped where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from bench.compare.api import Load
from bench.compare.flower import make, make_inprocess
from bench.compare.flower.venv import VENV
from bench.compare.groups import open_group
from lifl.update import Schema, TensorSpec, iter_document

LOAD = Load("test", "45mb", 3, (0.0, 0.1, 0.2))


def small_document() -> bytes:
    """Return a model of four tensors: every tensor is some requests for a peer."""
    schema = Schema(TensorSpec(f"layer{i}", "F32", (250, 250)) for i in range(4))
    rng = np.random.default_rng(1)
    tensors = {t.name: rng.standard_normal(t.shape, np.float32) for t in schema.tensors}
    return b"".join(iter_document(tensors, schema))


pytestmark = pytest.mark.skipif(VENV.version is None, reason=VENV.why_missing() or "")


@pytest.mark.slow
def test_rounds_of_all_and_of_some_clients(commands, no_leaks):
    with (
        open_group("flower", grace=20.0) as group,
        make(LOAD, group, small_document()) as system,
    ):
        lines = commands(group.pids())
        assert any("superlink" in line for line in lines)
        assert any("serverapp" in line for line in lines)
        assert not any("light_client" in line for line in lines)
        for updates in (None, 2):
            played = system.play(updates)
            assert played.updates == (updates or 3)
            assert 0 < played.marks["averaging"] < played.wall < 60
            assert 0 < played.last_byte <= played.wall
            assert played.marks["cpu"] > 0
        assert system.versions == {"flwr": VENV.version}
    assert not group.left


def test_fedavg_alone(no_leaks):
    with (
        open_group("flower-inprocess") as group,
        make_inprocess(LOAD, group, small_document()) as system,
    ):
        for updates in (None, 2):
            played = system.play(updates)
            assert played.updates == (updates or 3)
            assert 0 < played.wall < 10
