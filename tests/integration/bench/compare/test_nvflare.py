"""NVFlare as a side, with its real simulator, small; skipped where it is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from bench.compare.api import Load
from bench.compare.groups import ControlGroup, open_group
from bench.compare.nvflare import make
from bench.compare.nvflare.system import VENV
from lifl.update import Schema, TensorSpec, iter_document

LOAD = Load("test", "45mb", 2, (0.0, 0.2))


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
        open_group("nvflare", grace=20.0) as group,
        make(LOAD, group, small_document()) as system,
    ):
        lines = commands(group.pids())
        assert any("simulator" in line for line in lines)
        if isinstance(group, ControlGroup):
            assert not any("simulator_worker" in line for line in lines)
        for updates in (None, 1):
            played = system.play(updates)
            assert played.updates == (updates or 2)
            assert 0 <= played.marks["averaging"] < played.wall < 60
            assert played.last_byte <= played.wall
            assert played.marks["cpu"] > 0
        assert system.versions == {"nvflare": VENV.version}
    assert not group.left
