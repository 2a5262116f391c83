"""The file of costs: what is wrong in it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.sim.costs import DEFAULT, Costs
from lifl.errors import ConfigError


def test_a_file_gives_back_what_was_saved(costs: Costs, tmp_path: Path) -> None:
    costs.save(tmp_path / "costs.json")
    assert Costs.load(tmp_path / "costs.json") == costs


def test_the_file_of_the_project_says_where_it_comes_from() -> None:
    costs = Costs.load(DEFAULT)
    assert costs.origin["machine"]["cpu"]
    assert costs.origin["machine"]["cores"] >= 1
    assert costs.origin["date"]
    for part in ("lifl", "aggregator", "serverful", "vanilla"):
        assert costs.origin[part]
    assert costs.vanilla.per_byte > costs.serverful.per_byte > 0
    assert 0 < costs.aggregator.sum_per_byte < costs.lifl.ingest_per_byte


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("lifl"), "lifl is missing"),
        (lambda d: d["lifl"].pop("claim"), "lifl.claim is missing"),
        (lambda d: d["lifl"].update(nap=1.0), "lifl.nap is not known"),
        (lambda d: d["client"].update(per_byte=-1), "client.per_byte is -1"),
        (lambda d: d["client"].update(per_byte="fast"), "'fast'"),
        (lambda d: d["client"].update(per_byte=True), "True"),
        (lambda d: d["vanilla"].update(serial=1.5), "at most 1"),
    ],
)
def test_what_is_wrong_is_named(costs: Costs, tmp_path: Path, change: object, said: str) -> None:
    path = tmp_path / "costs.json"
    costs.save(path)
    raw = json.loads(path.read_text())
    change(raw)  # type: ignore[operator]
    path.write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=said):
        Costs.load(path)


@pytest.mark.parametrize(("text", "said"), [("{", "not JSON"), ("[]", "no object")])
def test_a_file_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        Costs.load(tmp_path / "costs.json")
    with pytest.raises(ConfigError, match="No such file"):
        Costs.load(tmp_path / "none.json")
