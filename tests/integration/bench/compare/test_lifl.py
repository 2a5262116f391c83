"""LIFL as a side: rounds, arrivals, a varying load, true updates; nothing stays behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bench.compare import arrivals, lifl, models, shapes
from bench.compare.api import Load
from bench.compare.groups import open_group


@pytest.mark.usefixtures("no_leaks")
def test_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIFL_HOME", raising=False)
    document = shapes.document("1000kb")
    load = Load("trial", "1000kb", 3, (0.0, 0.1, 0.3), sizes=(3, 2))
    with open_group("lifl-rounds", switches=False) as group:
        with lifl.Lifl(load, group, document, dataplane="socket") as side:
            assert "LIFL_HOME" not in os.environ
            home = side.platform.paths.home
            before = group.usage()
            done = side.play()
            assert done.wall >= done.last_byte >= 0.3
            assert done.updates == 3
            assert done.created >= 1
            assert done.marks["committed"] <= done.wall
            assert side.play(2).updates == 2
            assert side.play(3).created == 0  # warm by now
            assert group.usage().since(before).cpu > 0
            _check_true_updates(side, document)
        assert not home.exists()
    assert group.left == []
    assert "LIFL_HOME" not in os.environ


def _check_true_updates(side: lifl.Lifl, document: bytes) -> None:
    base = models.arrays_of(document)
    updates = [{name: a * np.float32(i + 1) for name, a in base.items()} for i in range(3)]
    documents = [models.document_of(u) for u in updates]
    done, model = side.play_true(documents, [5, 3, 1])
    assert done.updates == 3
    expected = models.document_of(models.average(updates, [5, 3, 1]))
    assert models.same(model, expected) < 1e-6


@pytest.mark.usefixtures("no_leaks")
def test_a_wrong_mean_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    document = shapes.document("1000kb")
    load = Load("trial", "1000kb", 2, arrivals.burst(2))
    with (
        open_group("lifl-wrong", switches=False) as group,
        lifl.Lifl(load, group, document, dataplane="socket") as side,
    ):
        side._document = document[:-4] + b"\0\0\0?"
        with pytest.raises(RuntimeError, match="elements of the mean are wrong"):
            side.play()


@pytest.mark.usefixtures("no_leaks")
def test_a_step_of_the_ablation_counts_from_a_rounds_opening(tmp_path: Path) -> None:
    document = shapes.document("1000kb")
    load = Load("trial", "1000kb", 4, arrivals.burst(4))
    with (
        open_group("lifl-step", switches=False) as group,
        lifl.Lifl(
            load,
            group,
            document,
            dataplane="socket",
            nodes=2,
            from_open=True,
            spare=32,
            switches={"LIFL_REUSE": "off", "LIFL_NODE_CAPACITY": "2"},
        ) as side,
    ):
        done = side.play()
        again = side.play()
    assert done.nodes == 2
    assert again.created >= 1  # nobody is reused
    assert again.wall == pytest.approx(again.marks["committed"] - again.marks["opened"], abs=0.01)
