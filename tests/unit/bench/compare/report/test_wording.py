"""Words of a report: numbers, and what was run."""

from __future__ import annotations

from typing import Any

import pytest

from bench.compare.report import wording


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (0.01234, "0.0123"),
        (12.345, "12.3"),
        (1234.5, "1230"),
        (98765, "98800"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value: float | None, shown: str) -> None:
    assert wording.number(value) == shown


@pytest.mark.parametrize(
    ("value", "bar", "passed", "shown"),
    [
        (1.9994, "≥ 2", False, "1.999"),
        (0.15004, "≤ 0.15", False, "0.15004"),
        (1.9994, "≥ 1.9", True, "2.00"),
        (1.53, "≥ 1.6", False, "1.53"),
        (2.0, "≥ 2", True, "2.00"),
        (2.0, None, None, "2.00"),
    ],
)
def test_what_misses_its_bar_does_not_look_like_it(
    value: float, bar: str | None, passed: bool | None, shown: str
) -> None:
    assert wording.judged(value, bar, passed) == shown


def test_spread() -> None:
    assert wording.spread([1.0, 3.0, 2.0]) == "2 [1 .. 3]"
    assert wording.spread([]) == "–"


def test_a_workload_says_who_played_less(run: dict[str, Any]) -> None:
    first = run["workloads"][0]
    first |= {"few": {"vanilla": 1}, "cold": ["vanilla"]}
    said = wording.said(first)
    assert "3 rounds a side, The vanilla side 1, round by round in turn" in said
    assert said.endswith("after 1 to warm up (The vanilla side: none).")
    first["warm"] = 0
    assert wording.said(first).endswith("none to warm up.")


def test_noise(run: dict[str, Any]) -> None:
    # of the two plain workloads: 1, 1, 2/3, 0.2, and the steps' 0.5/2.2 and 0.5/1.2
    assert "differ by 54 %" in wording.noise(run)
    assert "by others" not in wording.noise(run)
    run["machine"]["load"] = 1.5
    assert "a load of 1.5 by others" in wording.noise(run)


def test_several_workloads_are_summed_up_as_they_were_played(run: dict[str, Any]) -> None:
    found = wording.summed_up(run["workloads"])
    assert found.startswith("3 workloads, 2 to 3 rounds a side, sides in turn, or one side after")
    run["workloads"][0]["few"] = {"flower": 1}
    assert "rounds a side, of slow sides fewer, sides in turn;" in wording.summed_up(
        run["workloads"][:1]
    )
